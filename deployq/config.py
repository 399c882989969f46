"""`BuildConfig`: everything a build depends on, every default and every range check.

Files are found and read by `deployq.config_file`.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from deployq.allocation.by_hand import parse_layer_bits, parse_width
from deployq.alphabet import alphabet, default_alphabet
from deployq.augmentation import AUGMENTATIONS
from deployq.calibrate import RangeMethod
from deployq.codegen.generated import IO_LAYOUTS
from deployq.codegen.kernels import OPTIMIZE
from deployq.codegen.names import check_prefix
from deployq.config_values import (
    Reader,
    map_data_paths,
    read_bits,
    read_bytes,
    read_data,
    read_directory,
    read_flag,
    read_integer,
    read_number,
    read_numbers,
    read_path,
    read_text,
    read_texts,
    toml_value,
)
from deployq.data import Preprocessing
from deployq.errors import UsageError
from deployq.quantizers import method_names
from deployq.quantizers.layer import GRANULARITIES
from deployq.quantizers.options import ORDERS, SolverOptions
from deployq.recipes import AUTO, default_bits
from deployq.targets import load_target
from deployq.task import TASKS

#: The value of `bits` that stands for a width chosen for each layer.
AUTO_BITS = "auto"

#: Names of all methods.
METHODS = (AUTO, *method_names())

_LONGEST_NAME = 40
#: Say nothing about the result, so they are not written to build.toml.
_NOT_SAVED = ("force",)


def _setting(default: Any, reader: Reader) -> Any:
    """A field and how its value is read from a file or the command line."""
    return field(default=default, metadata={"reader": reader})


@dataclass(frozen=True)
class BuildConfig:
    """Settings of a build; the TOML keys have the same names.

    Attributes:
        model: ONNX file; None when a torch module is given from Python.
        calibration: calibration samples: `file.npy`, `file.npz:key` or a folder of images.
        evaluation: labelled samples: `file.npz:x_key,y_key`, `x.npy,y.npy`, or a folder of class folders.
        name: prefix of the generated C; by default from the name of the model file.
        output: directory to write.
        target: name of a target, see `deployq targets`.
        bits: weight width, "1".."8", "ternary" or "binary"; "auto" chooses one for each layer within
            the budget of `flash`, `average_bits` or `max_drop`. If not given "2", or "ternary" for the
            method sparse-gpfq, which needs a level zero.
        alphabet: weight alphabet by name; replaces the default one of `bits`, which then follows it.
        first: width of the first layer with weights; None for that of the others.
        last: width of the last layer with weights.
        layer_bits: widths of single layers, "name=4" each.
        average_bits: with bits "auto", bits per weight in flash, padding included.
        max_drop: with bits "auto", accuracy the network may lose, in percentage points.
        method: quantizer, see `deployq.quantizers`; "auto" is the best combination known.
        order: in which a quantizer decides inputs, "natural" or "descending"; None for the method's.
        refine: rounds of coordinate descent after the quantizer; None for the method's.
        ridge: how strongly weights are held where samples are few; None for the method's.
        copies: times each sample enters the statistics, augmented but once; None for the method's.
        tune: passes over the samples that tune scales and biases; None for the method's.
        augmentation: "auto", "none", "shift", "flip" or "mix": what may be done to a sample.
        task: "classification", "regression", or "auto": from the output's shape and whether labels are given.
        threshold: of sparse-gpfq, "soft" or "hard".
        sparsity: of sparse-gpfq, the threshold in units of the scale; None for 0.5 if soft, 1 if hard.
        directions: of maly-saab, directions of the data that are kept.
        spfq_alphabet: of spfq, "finite", or "infinite": nothing is clipped, and each layer gets the smallest
            alphabet with the step of `bits` that has the levels found.
        granularity: what shares a weight scale, "channel" or "layer".
        activation_range: "minmax", "percentile" or "mse".
        percentile: share of values kept, in percent, with "percentile".
        calibration_limit: calibration samples used at most, spread over the data.
        layout: axis order of stored images, "nchw" or "nhwc".
        resize: resize images of another size than the network's input instead of refusing them.
        scale: network input = (stored * scale - mean) / std.
        mean: one value or one per channel.
        std: one value or one per channel.
        io_layout: axis order of the C function's input and output.
        float_io: also write an ONNX model that takes and gives floats.
        single_file: generate one C file instead of several.
        optimize: "balanced", "speed", "ram" or "flash": what counts where they conflict.
        input_rows: the library has a second function that asks for its input row by row; the layers at its
            beginning are executed depth first, as many as make the arena smallest.
        seed: of everything random; equal seeds give equal output.
        flash: bytes the weights and the code may take; None for no limit.
        ram: bytes the arena and the stack may take; None for no limit.
        min_accuracy: quantized accuracy demanded, in percent.
        strict: a missing compiler or emulator is an error, not a warning.
        verify_samples: samples run in the emulator.
        host_samples: samples run in ONNX Runtime and in the C code on the host.
        force: replace an output directory that deployq did not write.

    Raises:
        UsageError: a value is out of range.
    """

    model: Path | None = _setting(None, read_path)
    calibration: str | None = _setting(None, read_data)
    evaluation: str | None = _setting(None, read_data)
    name: str | None = _setting(None, read_text)
    output: Path = _setting(Path("deployq-out"), read_directory)
    target: str = _setting("cortex-m4", read_text)
    bits: str = _setting("", read_bits)
    alphabet: str | None = _setting(None, read_text)
    first: str | None = _setting(None, read_bits)
    last: str | None = _setting(None, read_bits)
    layer_bits: tuple[str, ...] = _setting((), read_texts)
    average_bits: float | None = _setting(None, read_number)
    max_drop: float | None = _setting(None, read_number)
    method: str = _setting(AUTO, read_text)
    order: str | None = _setting(None, read_text)
    refine: int | None = _setting(None, read_integer)
    ridge: float | None = _setting(None, read_number)
    copies: int | None = _setting(None, read_integer)
    tune: int | None = _setting(None, read_integer)
    augmentation: str = _setting("auto", read_text)
    task: str = _setting("auto", read_text)
    threshold: str = _setting("soft", read_text)
    sparsity: float | None = _setting(None, read_number)
    directions: int | None = _setting(None, read_integer)
    spfq_alphabet: str = _setting("finite", read_text)
    granularity: str = _setting("channel", read_text)
    activation_range: str = _setting("minmax", read_text)
    percentile: float = _setting(99.99, read_number)
    calibration_limit: int = _setting(1024, read_integer)
    layout: str = _setting("nchw", read_text)
    resize: bool = _setting(False, read_flag)
    scale: float = _setting(1.0, read_number)
    mean: tuple[float, ...] = _setting((0.0,), read_numbers)
    std: tuple[float, ...] = _setting((1.0,), read_numbers)
    io_layout: str = _setting("nhwc", read_text)
    float_io: bool = _setting(False, read_flag)
    single_file: bool = _setting(False, read_flag)
    optimize: str = _setting("balanced", read_text)
    input_rows: bool = _setting(False, read_flag)
    seed: int = _setting(0, read_integer)
    flash: int | None = _setting(None, read_bytes)
    ram: int | None = _setting(None, read_bytes)
    min_accuracy: float | None = _setting(None, read_number)
    strict: bool = _setting(False, read_flag)
    verify_samples: int = _setting(64, read_integer)
    host_samples: int = _setting(1000, read_integer)
    force: bool = _setting(False, read_flag)

    def __post_init__(self) -> None:
        self._read_given()
        if not self.bits:
            object.__setattr__(self, "bits", default_bits(self.method))
        if self.alphabet or self.bits != AUTO_BITS:
            chosen = alphabet(self.alphabet) if self.alphabet else default_alphabet(self.bits)
            object.__setattr__(self, "bits", "ternary" if chosen.name == "ternary" else str(chosen.bits))
        self._check_widths()
        self.solver_options(self.order or ORDERS[0], self.ridge or 0.0)
        load_target(self.target)
        self._one_of("method", METHODS)
        RangeMethod(self.activation_range, self.percentile)
        Preprocessing(self.layout, self.scale, self.mean, self.std)
        if self.name is not None:
            check_prefix(self.name)
        self._one_of("granularity", GRANULARITIES)
        self._one_of("io_layout", IO_LAYOUTS)
        self._one_of("optimize", OPTIMIZE)
        self._one_of("augmentation", AUGMENTATIONS)
        self._one_of("task", TASKS)
        for name in ("calibration_limit", "verify_samples", "host_samples"):
            self._within(name, 1, 10**9)
        self._within("seed", 0, 2**63 - 1)
        self._within("flash", 1, 2**40)
        self._within("ram", 1, 2**40)
        self._within("min_accuracy", 0, 100)
        self._within("max_drop", 0, 100)
        self._within("average_bits", 1, 8)
        self._within("refine", 0, 1000)
        self._within("copies", 1, 1000)
        self._within("tune", 0, 10**6)
        self._check_paths()

    def _read_given(self) -> None:
        """Accept from Python what a file may hold, "64K" or 0.5 for a list of one, and refuse the rest."""
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not item.default:
                try:
                    read = item.metadata["reader"](value, Path())
                except ValueError as error:
                    raise UsageError(
                        f"{item.name} is {value!r}", where=option_name(item.name), why=str(error)
                    ) from error
                object.__setattr__(self, item.name, read)

    def _check_paths(self) -> None:
        """Refuse paths that build.toml cannot name at the end, relative to the output."""
        try:
            self.to_toml().encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                "a path between the output and its inputs is not valid UTF-8",
                where=str(self.output),
                why="build.toml, which names them, has to be",
                hint="rename the directory",
            ) from error
        except (OSError, RuntimeError) as error:  # RuntimeError: links that form a circle
            raise UsageError("a path cannot be resolved", why=str(error)) from error

    def _check_widths(self) -> None:
        """Refuse widths of single layers that do not exist, and budgets that do not fit together."""
        for option, width in (("--first", self.first), ("--last", self.last)):
            if width is not None:
                parse_width(width, option)
        parse_layer_bits(self.layer_bits)
        budgets = [name for name in ("average_bits", "max_drop") if getattr(self, name) is not None]
        if self.bits != AUTO_BITS and budgets:
            raise UsageError(
                f"{budgets[0]} without widths to choose", where=option_name(budgets[0]), hint="--bits auto"
            )
        if self.bits == AUTO_BITS and not budgets and self.flash is None:
            raise UsageError(
                "no budget to choose the widths for",
                where="--bits auto",
                hint="--flash 48K, --average-bits 2.1 or --max-drop 1",
            )

    def _one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise UsageError(f"unknown {name} {value!r}", where=option_name(name), hint=" or ".join(allowed))

    def _within(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise UsageError(
                f"{name} is {value}", where=option_name(name), why=f"it must be in {low} .. {high}"
            )

    def solver_options(self, order: str, ridge: float) -> SolverOptions:
        """The options of the quantizer; order and ridge may be its method's."""
        return SolverOptions(
            order, self.threshold, self.sparsity, self.directions, ridge, spfq_alphabet=self.spfq_alphabet
        )

    @property
    def prefix(self) -> str:
        """Prefix of the generated C: the name, or one made of the model's file name."""
        return self.name or _prefix_of(self.model.stem if self.model else "model")

    def to_toml(self) -> str:
        """The resolved configuration, to be stored as `build.toml` in `output`.

        Paths are relative to `output`, so that a project can move as a whole.
        """
        directory = self.output.resolve()

        def relative(path: str | Path) -> str:
            return Path(os.path.relpath(Path(path).resolve(), directory)).as_posix()

        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values |= {"name": self.prefix, "output": relative(self.output)}
        values["model"] = relative(self.model) if self.model else None
        for name in ("calibration", "evaluation"):
            values[name] = map_data_paths(values[name], relative) if values[name] else None
        lines = ["# Resolved configuration; `deployq build --config build.toml` gives the same output again."]
        if self.model is None or self.calibration is None:
            lines = ["# Resolved configuration of a build from Python, whose model or data were not files."]
        lines += [
            f"{name} = {toml_value(value)}"
            for name, value in values.items()
            if value is not None and name not in _NOT_SAVED
        ]
        return "\n".join(lines) + "\n"


def option_name(name: str) -> str:
    """The command line option of a setting."""
    return "--" + name.replace("_", "-")


def _prefix_of(stem: str) -> str:
    """A valid C prefix made of a file name."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[:_LONGEST_NAME]
    try:
        return check_prefix(words)
    except UsageError:
        return check_prefix(f"m_{words}"[:_LONGEST_NAME].rstrip("_"))

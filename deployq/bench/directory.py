"""What `deployq bench` reads from an output directory of `deployq build`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from deployq.errors import UsageError
from deployq.finished_build import check_firmware, read_finished_build
from deployq.report import Report
from deployq.targets import Target, load_target
from deployq.verify.runner import Int8Array, library_sources

#: How the entry point calls a layer, see templates/parts.j2.
_CALL = re.compile(r"\bDQ_LAYER_BEGIN\(([0-9]+)\);\s*([A-Za-z_][A-Za-z0-9_]*)\(")

#: What cores of an extension execute as well: every Armv7E-M core runs code for Armv7-M, every Armv7-M core
#: code for Armv6-M.
_OLDER = {"dsp": {"armv7m", "armv6m"}, "armv7m": {"armv6m"}}

#: Features that no kernel uses: the generated C computes with integers.
_UNUSED_FEATURES = frozenset({"fpu"})


@dataclass(frozen=True)
class BuiltLibrary:
    """A build, as found in its directory.

    Attributes:
        report: of the build.
        firmware: directory of the C library.
        functions: C function of every layer.
        samples: int8 inputs (n, size), in the layout of the C function.
        expected: int8 outputs (n, size) of the Python reference, in that layout.
        is_single_file: whether the weights are in the same file as the code.
    """

    report: Report
    firmware: Path
    functions: tuple[str, ...]
    samples: Int8Array
    expected: Int8Array
    is_single_file: bool


def read_directory(directory: Path, samples: int) -> BuiltLibrary:
    """Read the parts of an output directory that a measurement needs.

    Args:
        directory: written by `deployq build`.
        samples: test vectors to read at most.

    Raises:
        UsageError: not such a directory, or a part of it is missing, damaged or edited beyond recognition.
    """
    build = read_finished_build(directory)
    report = build.report
    inputs, expected = build.c_vectors(samples)
    firmware = directory / "firmware"
    check_firmware(directory, report.name)
    source = library_sources(firmware, report.name)[0]
    return BuiltLibrary(
        report=report,
        firmware=firmware,
        functions=layer_functions(source, len(report.layers)),
        samples=inputs,
        expected=expected,
        is_single_file=not (firmware / f"{report.name}_weights.c").is_file(),
    )


def layer_functions(source: Path, layers: int) -> tuple[str, ...]:
    """The C function that computes each layer, as the entry point calls them.

    Args:
        source: <prefix>.c.
        layers: of the build.

    Raises:
        UsageError: the file does not call all layers of the build and no others.
    """
    functions: dict[int, list[str]] = {}
    for index, function in _CALL.findall(source.read_text(encoding="utf-8", errors="replace")):
        functions.setdefault(int(index), []).append(function)
    if sorted(functions) != list(range(layers)):
        raise UsageError(
            "the C library does not have the layers of its build",
            where=str(source),
            why=f"layers {', '.join(map(str, sorted(functions))) or 'none'} where the report has 0 to "
            f"{layers - 1}",
            hint="build again; edit the kernels if you like, but leave the calls between DQ_LAYER_BEGIN and "
            "DQ_LAYER_END",
        )
    # A layer of a cascade is called in several places, for the stripes at the edges and those between.
    return tuple(max(functions[index], key=functions[index].count) for index in range(layers))


def core_to_measure(built: str, asked: str | None) -> Target:
    """The core to compile for and to emulate.

    Args:
        built: target of the build.
        asked: name of another one, None for that of the build.

    Raises:
        UsageError: unknown, not emulated, or without an instruction set extension the C was generated for.
    """
    target = load_target(asked or built)
    if target.is_host:
        raise UsageError(
            "the host is not emulated, and its instructions say nothing about a microcontroller",
            where="--target",
            hint="name a core, see deployq targets",
        )
    missing = load_target(built).features - _including_older(target.features) - _UNUSED_FEATURES
    if missing:
        raise UsageError(
            f"the C was generated for {built}, and {target.name} lacks {', '.join(sorted(missing))}",
            where="--target",
            hint=f"deployq build --target {target.name}",
        )
    return target


def _including_older(features: frozenset[str]) -> frozenset[str]:
    return features.union(*(_OLDER.get(feature, set()) for feature in features))

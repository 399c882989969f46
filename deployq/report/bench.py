"""What `deployq bench` measured: its data model and its text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import wrap

from deployq.report.text import printable, render_listing

#: Said wherever modelled cycles are shown.
MODEL_NOTE = (
    "a model: Cortex-M4 timing tables, 2 cycles per refill of the pipeline, memory without wait states; "
    "not compared with silicon"
)

_LABEL_WIDTH = 14
_TEXT_WIDTH = 100 - _LABEL_WIDTH
_NUMBERS = ("MACs", "instructions", "/MAC", "cycles*", "cycles*/MAC", "bytes")


@dataclass(frozen=True)
class LayerCost:
    """One layer of the C library.

    Attributes:
        name: from the model.
        op: kind of operator, e.g. "conv2d".
        function: the C function that computes it.
        macs: multiply-accumulates per inference.
        instructions: per inference, in the emulator; exact to about 4.
        instructions_per_mac: None without MACs.
        modelled_cycles: per inference, see `MODEL_NOTE`; None where they were not asked for.
        modelled_cycles_per_mac: as modelled_cycles; None without MACs.
    """

    name: str
    op: str
    function: str
    macs: int
    instructions: int
    instructions_per_mac: float | None
    modelled_cycles: int | None
    modelled_cycles_per_mac: float | None


@dataclass(frozen=True)
class FunctionCost:
    """One function of the C library or of the compiler's runtime.

    Attributes:
        name: in C.
        bytes: machine code; None for functions of the compiler's runtime, which are not in the library.
        instructions: executed per inference within layers, in the function itself; None without a profile.
        modelled_cycles: as instructions, see `MODEL_NOTE`.
    """

    name: str
    bytes: int | None
    instructions: int | None
    modelled_cycles: int | None


@dataclass(frozen=True)
class BenchReport:
    """What the C library of an output directory costs on a core.

    Attributes:
        name: prefix of the C library.
        target: core it was compiled for.
        machine: of qemu-system-arm.
        compiler: its version.
        flags: of the compiler, without warnings.
        samples: inferences that were averaged; the output of each was compared with the stored one.
        instructions: per inference, with what the entry point does besides the layers.
        macs: multiply-accumulates per inference.
        instructions_per_mac: None without MACs.
        modelled_cycles: sum over the layers, see `MODEL_NOTE`; None where they were not asked for.
        modelled_cycles_per_mac: as modelled_cycles.
        cycle_model: what the modelled cycles are; None without them.
        weights_bytes: constants in flash.
        code_bytes: machine code and its constants, without the compiler's runtime.
        arena_bytes: working memory the caller provides.
        stack_bytes: worst call path, as the compiler states the frames.
        used_stack_bytes: that an inference really wrote to.
        layers: in order of execution.
        functions: largest first.
    """

    name: str
    target: str
    machine: str
    compiler: str
    flags: tuple[str, ...]
    samples: int
    instructions: int
    macs: int
    instructions_per_mac: float | None
    modelled_cycles: int | None
    modelled_cycles_per_mac: float | None
    cycle_model: str | None
    weights_bytes: int
    code_bytes: int
    arena_bytes: int
    stack_bytes: int
    used_stack_bytes: int
    layers: tuple[LayerCost, ...]
    functions: tuple[FunctionCost, ...]


def render_bench(report: BenchReport) -> str:
    """The measurement as plain text of at most 100 columns; the first line says the most."""
    rate = "" if report.instructions_per_mac is None else f", {report.instructions_per_mac:.2f} per MAC"
    stack = f"{report.stack_bytes:,} stack, {report.used_stack_bytes:,} of it used"
    flash, ram = report.weights_bytes + report.code_bytes, report.arena_bytes + report.stack_bytes
    lines = [
        f"{report.name} on {report.target}: {report.instructions:,} instructions per inference{rate}",
        "",
        _line("measured", f"QEMU {printable(report.machine)}, mean of {report.samples} inferences"),
        _line("outputs", "equal to those of the build"),
        _line("compiler", printable(report.compiler)),
        _line("flags", " ".join(report.flags)),
        _line("flash", f"{flash:,} bytes = {report.weights_bytes:,} weights + {report.code_bytes:,} code"),
        _line("RAM", f"{ram:,} bytes = {report.arena_bytes:,} arena + {stack}"),
    ]
    if report.modelled_cycles is not None:
        lines += [_line("cycles*", f"{report.modelled_cycles:,} per inference"), _line("*", MODEL_NOTE)]
    return "\n".join(lines) + "\n\n" + _layer_table(report) + "\n" + _function_table(report)


def _layer_table(report: BenchReport) -> str:
    columns = ["layer", "function", "MACs", "instructions", "/MAC"]
    rows = [
        [
            layer.name,
            layer.function,
            _number(layer.macs or None),
            _number(layer.instructions),
            _rate(layer.instructions_per_mac),
        ]
        for layer in report.layers
    ]
    if report.modelled_cycles is not None:
        columns += ["cycles*", "cycles*/MAC"]
        for row, layer in zip(rows, report.layers, strict=True):
            row += [_number(layer.modelled_cycles), _rate(layer.modelled_cycles_per_mac)]
    return _table(columns, rows)


def _function_table(report: BenchReport) -> str:
    columns = ["function", "bytes"]
    rows = [[function.name, _number(function.bytes)] for function in report.functions]
    if report.modelled_cycles is not None:
        columns += ["instructions", "cycles*"]
        for row, function in zip(rows, report.functions, strict=True):
            row += [_number(function.instructions), _number(function.modelled_cycles)]
    return _table(columns, rows)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    return render_listing(tuple(columns), map(tuple, rows), numbers=_NUMBERS)


def _line(label: str, text: str) -> str:
    lines = wrap(text, _TEXT_WIDTH, break_on_hyphens=False)
    return f"{label:<{_LABEL_WIDTH}}" + f"\n{'':<{_LABEL_WIDTH}}".join(lines)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

"""Reports as plain text, at most 100 columns; the first line is the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployq.pareto import render_pareto
from deployq.report.model import Check, Checked, InspectReport, Report, TensorReport, VerificationReport
from deployq.report.verdict import accuracy_sentence, verdict, weights_label

_WIDTH = 100
_LABEL_WIDTH = 14
#: Columns of the layer tables that hold text; the others are numbers, aligned to the right.
_TEXT_COLUMNS = ("layer", "op", "weights", "output")


def render_text(report: Report) -> str:
    """A build report."""
    lines = [
        f"{report.name} for {report.target}: {verdict(report.verification)}",
        "",
        _line("accuracy", accuracy_sentence(report)),
        _line("flash", _flash(report)),
        _line("RAM", _ram(report)),
        _line("instructions", _instructions(report.instructions, report.machine)),
        *_checks(report.verification.checks),
        _line("input", _tensor(report.input)),
        _line("output", _tensor(report.output)),
        _line("weights", weights_label(report)),
        _line("model", f"SHA-256 {report.model_sha256}"),
        *[_line("WARNING", printable(warning)) for warning in report.warnings],
        *[_line("note", printable(note)) for note in report.notes],
        "",
    ]
    columns = ("layer", "op", "MACs", "weights", "bytes", "error", "zeros", "acc. bits", "instructions")
    rows = [
        (
            layer.name,
            layer.op,
            _number(layer.macs or None),
            layer.alphabet or "",
            _number(layer.weights_bytes or None),
            "" if layer.relative_error is None else f"{layer.relative_error:.4f}",
            "" if layer.sparsity is None else f"{layer.sparsity:.0%}",
            _number(layer.accumulator_bits),
            _number(layer.instructions),
        )
        for layer in report.layers
    ]
    return "\n".join(lines) + "\n" + _table(columns, rows) + _pareto(report)


def _pareto(report: Report) -> str:
    """The table of widths that deployq chose from."""
    if report.pareto is None:
        return ""
    title = "flash against accuracy, as measured to choose the widths, before tuning; *: built"
    return f"\n{title}\n\n{render_pareto(report.pareto)}"


def render_verification(report: VerificationReport) -> str:
    """The result of `deployq verify`."""
    lines = [
        f"{report.name} for {report.target}: {verdict(report.verification)}",
        "",
        *_checks(report.verification.checks),
        _line("instructions", _instructions(report.instructions, report.machine)),
        *[_line("WARNING", printable(warning)) for warning in report.warnings],
    ]
    return "\n".join(lines) + "\n"


def render_inspection(report: InspectReport) -> str:
    """The result of `deployq inspect`."""
    parameters = sum(layer.parameters for layer in report.layers)
    macs = sum(layer.macs for layer in report.layers)
    lines = [
        f"{printable(report.model)}: supported, {parameters:,} parameters, {macs:,} MACs",
        "",
        _line("input", f"{_shape(report.input_shape)} per sample, NCHW"),
        _line("output", _shape(report.output_shape)),
        _line("opset", str(report.opset)),
        _line("producer", printable(report.producer) or "unknown"),
        _line("model", f"SHA-256 {report.model_sha256}"),
        "",
    ]
    rows = [
        (
            layer.name,
            layer.op,
            _shape(layer.shape),
            _number(layer.parameters or None),
            _number(layer.macs or None),
        )
        for layer in report.layers
    ]
    return "\n".join(lines) + "\n" + _table(("layer", "op", "output", "parameters", "MACs"), rows)


def render_listing(
    columns: tuple[str, ...], rows: Iterable[tuple[str, ...]], numbers: tuple[str, ...] = ()
) -> str:
    """A plain table of texts, the last column folded; columns of `numbers` are aligned to the right."""
    return _table(columns, rows, text_columns=tuple(name for name in columns if name not in numbers))


def printable(text: str) -> str:
    """Text from a model without what could steer a terminal: anything unprintable becomes `<XXXX>`."""
    return "".join(char if char.isprintable() else f"<{ord(char):04X}>" for char in text)


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}}{text}"


def _checks(checks: Mapping[str, Check]) -> list[str]:
    lines = []
    for name, check in checks.items():
        if isinstance(check, Checked):
            text = f"{check.samples:,} samples, {check.mismatches:,} mismatching bytes"
        else:
            text = f"SKIPPED: {printable(check.skipped)}"
        lines.append(_line(name, text))
    return lines


def _flash(report: Report) -> str:
    memory = report.memory
    if memory.code_bytes is None or memory.flash_bytes is None:
        return f"{memory.weights_bytes:,} bytes of weights; code not measured"
    return f"{memory.flash_bytes:,} bytes = {memory.weights_bytes:,} weights + {memory.code_bytes:,} code"


def _ram(report: Report) -> str:
    memory = report.memory
    if memory.stack_bytes is None or memory.ram_bytes is None:
        return f"{memory.arena_bytes:,} bytes of arena; stack not measured"
    return f"{memory.ram_bytes:,} bytes = {memory.arena_bytes:,} arena + {memory.stack_bytes:,} stack"


def _instructions(count: int | None, machine: str | None) -> str:
    if count is None:
        return "not measured"
    return f"{count:,} per inference" + (f", QEMU {printable(machine)}" if machine else "")


def _tensor(tensor: TensorReport) -> str:
    return (
        f"int8 {_shape(tensor.shape)} {tensor.layout}, "
        f"real = {tensor.scale:.6g} * (q - {tensor.zero_point})".replace("- -", "+ ")
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _table(
    columns: tuple[str, ...],
    rows: Iterable[tuple[str, ...]],
    text_columns: tuple[str, ...] = _TEXT_COLUMNS,
) -> str:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            column, justify="left" if column in text_columns else "right", overflow="fold", min_width=4
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text: no markup from a model file
    output = StringIO()
    console = Console(file=output, width=_WIDTH, color_system=None, force_terminal=False, highlight=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"

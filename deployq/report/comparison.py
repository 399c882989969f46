"""The comparison of quantization methods over weight widths: its data model and its text.

The JSON document is `deployq.report.json.to_document` of a `Comparison`. Only the fields whose names
end in `seconds` change when a comparison is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployq.report.quantization import Measure, QuantizedLayer, width_label
from deployq.report.text import printable, render_listing

#: Columns of a terminal that a table takes at most, and those between two of its columns.
_WIDEST, _BETWEEN = 100, 3

#: A heading and the texts below it.
Column = tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One network quantized with one method, width and seed.

    Attributes:
        seed: of the calibration samples drawn and of everything else that is random.
        score: in percent, see `Comparison.measure`.
        relative_error: mean over the layers of |X W - X~ Q| / |X W|.
        solver_seconds: quantizer and refinement alone.
        quantize_seconds: calibration, statistics, quantizer, refinement and tuning.
        seconds: the same and the evaluation.
    """

    seed: int
    score: float
    relative_error: float
    solver_seconds: float
    quantize_seconds: float
    seconds: float


@dataclass(frozen=True)
class Cell:
    """A method at a width, over all seeds.

    Attributes:
        method: name of the quantizer.
        bits: width as given.
        bits_per_weight: mean over all weights of log2(number of levels).
        score: mean over the seeds.
        score_spread: largest minus smallest.
        relative_error: mean over the seeds.
        relative_error_spread: largest minus smallest.
        sparsity: share of weights whose level is zero, 0 to 1, mean over the seeds.
        solver_seconds: mean over the seeds.
        quantize_seconds: mean over the seeds.
        seconds: mean over the seeds.
        trials: one per seed.
        layers: errors and sparsities are means over the seeds, the rest is that of the first one.
        notes: what the quantizer has to say, one sentence each.
    """

    method: str
    bits: str
    bits_per_weight: float
    score: float
    score_spread: float
    relative_error: float
    relative_error_spread: float
    sparsity: float
    solver_seconds: float
    quantize_seconds: float
    seconds: float
    trials: tuple[Trial, ...]
    layers: tuple[QuantizedLayer, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FailedCell:
    """A method that cannot be used at a width, and why."""

    method: str
    bits: str
    failure: str


@dataclass(frozen=True)
class Comparison:
    """What `deployq quantize --compare` found out.

    Attributes:
        tool_version: version of deployq.
        model: name of the model.
        model_sha256: hexadecimal digest of the source model.
        measure: what the scores are.
        calibration_samples: used for each trial.
        seeds: of the trials of every cell.
        methods: rows, in the order asked for.
        widths: columns, in the order asked for.
        configuration: the settings all cells share.
        cells: row by row.
        warnings: what the user should know, one sentence each.
    """

    tool_version: str
    model: str
    model_sha256: str
    measure: Measure
    calibration_samples: int
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    widths: tuple[str, ...]
    configuration: Mapping[str, Any]
    cells: tuple[Cell | FailedCell, ...]
    warnings: tuple[str, ...] = ()

    def cell(self, method: str, bits: str) -> Cell | FailedCell:
        """The cell of a row and a column."""
        return next(cell for cell in self.cells if (cell.method, cell.bits) == (method, bits))


def render_comparison(comparison: Comparison) -> str:
    """The comparison as plain text of at most 100 columns; the first line is the verdict."""
    measure, seeds = comparison.measure, len(comparison.seeds)
    beside = "" if measure.float_accuracy is None else f", float {measure.float_accuracy:.2f} %"
    details = "solver and all seconds" if seeds == 1 else "spread of the draws, solver and all seconds"
    drawn = f"means over {seeds} draws of them" if seeds > 1 else f"seed {comparison.seeds[0]}"
    lines = [
        f"{printable(comparison.model)}: {_count(comparison.methods, 'method')} at "
        f"{_count(comparison.widths, 'width')}{beside}",
        "",
        f"{measure.sentence}, int8 activations",
        f"{comparison.calibration_samples:,} calibration samples, {drawn}",
        f"cells: {measure.kind} (relative error of the layers); below: {details}",
        *[f"WARNING: {printable(warning)}" for warning in comparison.warnings],
    ]
    tables = [
        render_listing(
            tuple(column[0] for column in columns), zip(*(column[1:] for column in columns), strict=True)
        )
        for columns in _side_by_side(comparison)
    ]
    failures = [cell for cell in comparison.cells if isinstance(cell, FailedCell)]
    below = [f"failed: {cell.method} at {cell.bits}: {printable(cell.failure)}\n" for cell in failures]
    remarked = [
        f"{cell.method} at {cell.bits}" for cell in comparison.cells if isinstance(cell, Cell) and cell.notes
    ]
    if remarked:
        below.append(f"notes in the JSON document: {', '.join(remarked)}\n")
    return "\n".join(["\n".join(lines) + "\n", *tables, *(["".join(below)] if below else [])])


def _side_by_side(comparison: Comparison) -> list[list[Column]]:
    """The columns, a heading and two lines per method, in as many tables as it takes not to be too wide."""
    methods = ("method", *(text for method in comparison.methods for text in (method, "")))
    tables: list[list[Column]] = []
    for width in comparison.widths:
        cells = [comparison.cell(method, width) for method in comparison.methods]
        column = (
            width_label(width),
            *(text for cell in cells for text in _lines(cell, len(comparison.seeds))),
        )
        if not tables or _text_width([*tables[-1], column]) > _WIDEST:
            tables.append([methods])
        tables[-1].append(column)
    return tables


def _text_width(columns: list[Column]) -> int:
    return sum(max(map(len, column)) + _BETWEEN for column in columns) - _BETWEEN


def _lines(cell: Cell | FailedCell, seeds: int) -> tuple[str, str]:
    """The two lines of a cell."""
    if isinstance(cell, FailedCell):
        return "failed", ""
    seconds = f"{cell.solver_seconds:.1f} of {cell.quantize_seconds:.1f} s"
    details = seconds if seeds == 1 else f"{cell.score_spread:.2f}, {seconds}"
    return f"{cell.score:.2f} ({cell.relative_error:.3f})", details


def _count(items: tuple[str, ...], name: str) -> str:
    return f"{len(items)} {name}{'' if len(items) == 1 else 's'}"

"""The table of flash against accuracy: its data, and the same as text."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LayerWidth:
    """A layer with weights and the name of its alphabet."""

    layer: str
    alphabet: str


@dataclass(frozen=True)
class ParetoRow:
    """One measured assignment of widths.

    Attributes:
        flash_bytes: constants, and code where it was counted.
        packed_bits: bits per weight in flash, padding included, without scales and biases.
        divergence: from the float network, without labels; see `ParetoTable.measure`.
        agreement: percent of held-out samples with the same largest output as the float network; None of
            a network that is no classifier.
        accuracy: top-1 on labelled samples, in percent; None without them.
        layers: in the order of execution.
        chosen: this one was built.
    """

    flash_bytes: int
    packed_bits: float
    divergence: float
    agreement: float | None
    accuracy: float | None
    layers: tuple[LayerWidth, ...]
    chosen: bool = False


@dataclass(frozen=True)
class ParetoTable:
    """The assignments found, from the smallest to the most accurate.

    Attributes:
        measure: "KL" (nats) or "squared error": what `divergence` is.
        code_counted: `flash_bytes` includes the code.
        float_accuracy: of the float network on the labelled samples, in percent; None without them.
        rows: each with less divergence than all smaller ones, and the chosen one in any case.
    """

    measure: str
    code_counted: bool
    float_accuracy: float | None
    rows: tuple[ParetoRow, ...]

    def with_chosen(self, layers: tuple[LayerWidth, ...]) -> ParetoTable:
        """The table with the row of these widths as the one that was built."""
        wanted = set(layers)
        return replace(self, rows=tuple(replace(row, chosen=set(row.layers) == wanted) for row in self.rows))


def pareto_cells(table: ParetoTable) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column titles and rows of texts; the last column tells the widths in the order of the layers."""
    labelled = any(row.accuracy is not None for row in table.rows)
    flash = "flash bytes" if table.code_counted else "weights bytes"
    classifies = any(row.agreement is not None for row in table.rows)
    percentages = [("agreement %", classifies), ("accuracy %", labelled)]
    shown = tuple(title for title, present in percentages if present)
    columns = ("", flash, "bits", table.measure, *shown, "widths")
    rows = []
    for row in table.rows:
        values = [(row.agreement, classifies), (row.accuracy, labelled)]
        rows.append(
            (
                "*" if row.chosen else "",
                f"{row.flash_bytes:,}",
                f"{row.packed_bits:.3f}",
                f"{row.divergence:.3g}",
                *("" if value is None else f"{value:.2f}" for value, present in values if present),
                " ".join(short_width(layer.alphabet) for layer in row.layers),
            )
        )
    return columns, rows


def short_width(name: str) -> str:
    """A width in a table: "1" for binary, "t" for ternary, else the bits in the alphabet's name."""
    return {"binary": "1", "ternary": "t"}.get(name, name.rpartition("-")[2])


def render_pareto(table: ParetoTable) -> str:
    """The table as plain text; the chosen row has a star."""
    columns, rows = pareto_cells(table)
    widths = [max(len(line[index]) for line in (columns, *rows)) for index in range(len(columns))]
    last = len(columns) - 1

    def line(cells: tuple[str, ...]) -> str:
        aligned = [
            cell.ljust(width) if index in (0, last) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    reference = "" if table.float_accuracy is None else f"float network: {table.float_accuracy:.2f} %\n"
    rule = "  ".join("-" * width for width in widths)
    return reference + "\n".join([line(columns), rule, *(line(row) for row in rows)]) + "\n"

"""Flash against accuracy: the networks that were measured and that no smaller one beats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from deployq.allocation.costs import FlashCosts
from deployq.allocation.divergence import MEASURES
from deployq.allocation.search import Candidate
from deployq.pareto import LayerWidth, ParetoRow, ParetoTable


def front(candidates: Iterable[Candidate], costs: FlashCosts) -> list[Candidate]:
    """The candidates that none of at most their size beats, by ascending flash."""
    best: list[Candidate] = []
    ascending = sorted(candidates, key=lambda item: (costs.flash_bytes(item.assignment), item.divergence))
    for candidate in ascending:
        if not best or candidate.divergence < best[-1].divergence:
            best.append(candidate)
    return best


def pareto_table(
    candidates: Sequence[Candidate],
    chosen: Candidate,
    costs: FlashCosts,
    measure: str,
    float_accuracy: float | None = None,
    accuracy: Callable[[Candidate], float] | None = None,
) -> ParetoTable:
    """The table of all that was measured.

    Args:
        candidates: measured assignments, in any order.
        chosen: the one that will be built.
        costs: of every option.
        measure: what the divergence is.
        float_accuracy: of the float network on labelled samples, in percent.
        accuracy: of a candidate on the same samples; None without them.
    """
    shown = front(candidates, costs)
    if chosen not in shown:
        shown = sorted([*shown, chosen], key=lambda item: costs.flash_bytes(item.assignment))
    classifies = measure == MEASURES[0]
    rows = tuple(
        replace(_row(candidate, costs, accuracy, classifies=classifies), chosen=candidate is chosen)
        for candidate in shown
    )
    counted = costs.code.base_bytes > 0
    return ParetoTable(measure, counted, float_accuracy, rows)


def _row(
    candidate: Candidate,
    costs: FlashCosts,
    accuracy: Callable[[Candidate], float] | None,
    *,
    classifies: bool,
) -> ParetoRow:
    return ParetoRow(
        flash_bytes=costs.flash_bytes(candidate.assignment),
        packed_bits=costs.packed_bits(candidate.assignment),
        divergence=candidate.divergence,
        agreement=candidate.agreement if classifies else None,
        accuracy=None if accuracy is None else accuracy(candidate),
        layers=tuple(LayerWidth(name, candidate.assignment[name].name) for name in costs.layers),
    )

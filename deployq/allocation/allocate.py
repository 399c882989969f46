"""Bits per layer for a budget: what the pipeline calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from deployq.allocation.divergence import MEASURES
from deployq.allocation.pareto import front, pareto_table
from deployq.allocation.program import Budget
from deployq.allocation.search import PROPOSALS, Candidate, Search
from deployq.allocation.smallest import smallest_within
from deployq.allocation.workbench import Batch, Workbench
from deployq.alphabet import Alphabet
from deployq.errors import BudgetError, UsageError
from deployq.layerwise import dequantize
from deployq.ops.base import Array
from deployq.pareto import ParetoTable
from deployq.threads import single_threaded

#: Bits per weight of the rows of the Pareto table besides the network that is built.
LADDER = (1.2, 1.5, 2.0, 2.5, 3.2, 4.2)

#: Labelled samples the accuracies of the table are measured on, about.
LABELLED_SAMPLES = 4096


@dataclass(frozen=True)
class Labelled:
    """Labelled samples: batches of (float32, int8) inputs, and class numbers (N,)."""

    batches: tuple[Batch, ...]
    labels: Array

    def some(self, limit: int) -> list[tuple[Batch, Array]]:
        """Evenly spread batches of at most about `limit` samples, each with its labels."""
        every = max(1, -(-len(self.labels) // limit))
        ends = np.cumsum([len(codes) for _, codes in self.batches])
        labels = np.split(self.labels, ends[:-1])
        return list(zip(self.batches, labels, strict=True))[::every]


@dataclass(frozen=True)
class Allocation:
    """Chosen widths.

    Attributes:
        alphabets: of every weighted node, by name.
        larger: assignments that take more flash within the budget and diverge less, ascending: what to
            turn to where the network built from `alphabets` disappoints.
        table: flash against accuracy, of all that was measured.
        notes: what the user should know, one sentence each.
    """

    alphabets: Mapping[str, Alphabet]
    larger: tuple[Mapping[str, Alphabet], ...]
    table: ParetoTable
    notes: tuple[str, ...]


@single_threaded
def allocate(
    search: Search,
    budget: Budget,
    *,
    labelled: Labelled | None = None,
    max_drop: float | None = None,
    proposals: int = PROPOSALS,
    ladder: Iterable[float] = LADDER,
) -> Allocation:
    """Choose the bits of every layer.

    Without `max_drop` the network closest to the float one within the budget; with it the smallest one
    within the budget that loses at most `max_drop` percentage points: of top-1 accuracy on `labelled`
    samples, or, without them, of agreement with the float network's largest output on the held-out
    samples, which the loss of accuracy cannot exceed.

    Args:
        search: over the network; its workbench holds the samples to quantize and to compare on.
        budget: what the network may take.
        labelled: measures accuracies of the table, and the drop; never used to choose otherwise.
        max_drop: percentage points.
        proposals: assignments that are quantized and compared, see `Search.best`.
        ladder: bits per weight of further rows of the table.

    Raises:
        BudgetError: no choice of widths is within the budget.
        AccuracyError: no choice keeps to `max_drop`.
        UsageError: a drop is asked of a network that is no classifier.
    """
    bench, costs = search.bench, search.costs
    if not costs.layers:
        raise UsageError("the network has no weights to choose widths for", where="--bits auto")
    scorer = _Scorer(bench, labelled)
    if max_drop is None:
        chosen = search.best(budget, proposals)
    else:
        if bench.reference.measure != MEASURES[0]:
            what = "a drop of accuracy of a network that is not known to be a classifier"
            raise UsageError(what, where="--max-drop", hint="--task classification, or another budget")
        chosen = smallest_within(search, scorer.drop, max_drop, budget)
    for bits in ladder:
        _try(search, Budget(average_bits=bits))
    table = pareto_table(
        search.candidates,
        chosen,
        costs,
        bench.reference.measure,
        scorer.float_accuracy,
        None if labelled is None else scorer.accuracy,
    )
    note = (
        f"widths chosen on {len(chosen.losses):,} samples: {table.measure} {chosen.divergence:.4g}, "
        f"{costs.packed_bits(chosen.assignment):.3f} bits per weight with padding"
    )
    flash = costs.flash_bytes(chosen.assignment)
    larger = tuple(
        candidate.assignment
        for candidate in front(search.candidates, costs)
        if costs.flash_bytes(candidate.assignment) > flash and budget.allows(costs, candidate.assignment)
    )
    return Allocation(chosen.assignment, larger, table, (note,))


def _try(search: Search, budget: Budget) -> None:
    """A row of the table; nothing where no assignment is that small."""
    try:
        search.best(budget, proposals=1)
    except BudgetError as error:
        search.progress(f"no row for {budget}: {error.why}")


class _Scorer:
    """Accuracy of candidates on labelled samples, each measured once."""

    def __init__(self, bench: Workbench, labelled: Labelled | None) -> None:
        self._bench = bench
        self._labelled = [] if labelled is None else labelled.some(LABELLED_SAMPLES)
        self._known: dict[int, float] = {}
        self.float_accuracy: float | None = None
        if self._labelled:
            self.float_accuracy = self._percent(lambda batch: bench.float_output(batch[0]))

    def accuracy(self, candidate: Candidate) -> float:
        """Top-1 accuracy in percent."""
        if id(candidate) not in self._known:
            operators = self._bench.solve(candidate.assignment).operators
            start = self._bench.known[self._bench.graph.input]
            self._known[id(candidate)] = self._percent(
                lambda batch: self._bench.run(operators, dequantize(batch[1], start))
            )
        return self._known[id(candidate)]

    def drop(self, candidate: Candidate) -> float:
        """Percentage points lost: of accuracy, or of agreement where nothing is labelled."""
        if self.float_accuracy is None:
            return 100.0 - candidate.agreement
        return self.float_accuracy - self.accuracy(candidate)

    def _percent(self, run: Callable[[Batch], Array]) -> float:
        right = [
            run(batch).reshape(len(labels), -1).argmax(axis=1) == labels for batch, labels in self._labelled
        ]
        return 100.0 * float(np.mean(np.concatenate(right)))

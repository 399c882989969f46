"""The smallest network whose accuracy drops by no more than the user allows."""

from __future__ import annotations

from collections.abc import Callable

from deployq.allocation.program import Budget
from deployq.allocation.search import Candidate, Search
from deployq.allocation.sensitivity import widest
from deployq.errors import AccuracyError

#: The bisection ends when the budget is known to this part of the flash of the widest network.
_RESOLUTION = 0.01


def smallest_within(
    search: Search, drop: Callable[[Candidate], float], limit: float, budget: Budget
) -> Candidate:
    """Bisect the flash budget for the smallest assignment of a drop of at most `limit`.

    Every assignment tried is quantized and measured as a whole. The drop need not fall monotonically
    with the budget; what is returned keeps to the limit in any case.

    Args:
        search: over the network.
        drop: of the accuracy of a candidate, in percentage points.
        limit: largest drop allowed.
        budget: what the network may take at most.

    Raises:
        AccuracyError: the drop is too large at the largest budget.
        BudgetError: no assignment is within the budget.
    """
    costs = search.costs
    largest = search.best(budget, proposals=1)
    if drop(largest) > limit:
        raise AccuracyError(
            f"no choice of widths loses at most {limit:g} points",
            where="--max-drop",
            why=f"within {budget} the best one found loses {drop(largest):.2f}",
            hint="a larger drop or budget, or more calibration samples",
        )
    best = largest
    resolution = max(1, round(_RESOLUTION * costs.flash_bytes(widest(costs))))
    too_small, enough = costs.smallest_flash, costs.flash_bytes(best.assignment)
    while enough - too_small > resolution:
        middle = (too_small + enough) // 2
        candidate = search.best(Budget(middle, budget.average_bits), proposals=1)
        search.progress(f"{middle:,} bytes of flash: drop {drop(candidate):.2f} points")
        if drop(candidate) <= limit:
            best, enough = candidate, costs.flash_bytes(candidate.assignment)
        else:
            too_small = middle
    return best

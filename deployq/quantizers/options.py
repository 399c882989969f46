"""What a user may choose about a quantizer besides its name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deployq.errors import UsageError

ORDERS = ("natural", "descending")
THRESHOLDS = ("soft", "hard")
SPFQ_ALPHABETS = ("finite", "infinite")

#: Options that are one of a few words.
_NAMED = (("order", ORDERS), ("threshold", THRESHOLDS), ("spfq_alphabet", SPFQ_ALPHABETS))


@dataclass(frozen=True)
class SolverOptions:
    """Options of the quantizers; each reads those that concern it.

    Attributes:
        order: in which the inputs of a layer are decided: "natural", or "descending" in |X~_t|, so
            that small inputs are left to correct the error of large ones.
        threshold: of sparse-gpfq, "soft" or "hard".
        sparsity: of sparse-gpfq, the threshold lambda in units of the scale, at least 0; None for the
            default of the kind of threshold, see `threshold_size`.
        directions: of maly-saab, leading directions of the data that are kept; None for its default.
        spfq_alphabet: of spfq, "finite", or "infinite": levels are not clipped, and the layer gets the
            alphabet that has those found.
        ridge: how strongly weights are held where samples are few, see `LayerStatistics.with_ridge`.
        seed: of stochastic quantizers.

    Raises:
        UsageError: a value is out of range.
    """

    order: str = "natural"
    threshold: str = "soft"
    sparsity: float | None = None
    directions: int | None = None
    ridge: float = 0.0
    seed: tuple[int, ...] = (0,)
    spfq_alphabet: str = "finite"

    def __post_init__(self) -> None:
        for name, allowed in _NAMED:
            value = getattr(self, name)
            if value not in allowed:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"unknown {name} {value!r}", where=option, hint=" or ".join(allowed))
        for name in ("sparsity", "ridge"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} is {value}", where=f"--{name}", why="it must be 0 or more")
        if self.directions is not None and self.directions < 1:
            raise UsageError(
                f"directions is {self.directions}", where="--directions", why="it must be 1 or more"
            )

    @property
    def threshold_size(self) -> float:
        """Lambda of sparse-gpfq: `sparsity`, or the default for the kind of threshold.

        Both defaults make zero of what is up to one step from it: a soft threshold of 0.5, as what is left
        is rounded, a hard one of 1. Up to 0.5 a hard one would change nothing.
        """
        if self.sparsity is not None:
            return self.sparsity
        return 0.5 if self.threshold == "soft" else 1.0

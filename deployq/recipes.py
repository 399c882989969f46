"""What a method does by default beyond the solver: order, refinement, augmentation, tuning."""

from __future__ import annotations

from dataclasses import dataclass

#: The method that stands for the best combination known.
AUTO = "auto"

#: Below this many calibration samples `auto` adds augmented copies to the statistics.
_FEW_SAMPLES = 4096

#: Samples, copies included, that the statistics of `auto` see at most.
_MOST_COPIES = 8

#: Samples, repetitions included, that the tuning of `auto` sees.
_TUNING_SAMPLES = 40960


@dataclass(frozen=True)
class Recipe:
    """Defaults of a method; the user may override each.

    Attributes:
        method: name of the quantizer.
        order: in which inputs are decided.
        refine: rounds of coordinate descent.
        copies: times each calibration sample enters the statistics, all but once augmented.
        compensate: see `WeightSettings.compensate`.
        ridge: see `LayerStatistics.with_ridge`.
        tune: passes over the calibration samples in which scales and biases are tuned; 0 for none.
    """

    method: str
    order: str = "natural"
    refine: int = 0
    compensate: bool = False
    ridge: float = 0.0
    copies: int = 1
    tune: int = 0


def recipe(method: str, samples: int) -> Recipe:
    """The defaults of a method for a number of calibration samples.

    A method of the literature is taken as published; `auto` adds everything that pays.
    """
    if method != AUTO:
        return Recipe(method)
    copies = max(1, min(_MOST_COPIES, _FEW_SAMPLES // samples))
    passes = max(1, _TUNING_SAMPLES // samples)
    return Recipe("qronos", "descending", refine=5, compensate=True, ridge=0.1, copies=copies, tune=passes)

"""What a method does by default beyond the solver: order, refinement, augmentation, tuning."""

from __future__ import annotations

from dataclasses import dataclass

#: The method that stands for the best combination known.
AUTO = "auto"

#: Below this many calibration samples `auto` adds augmented copies to the statistics.
_FEW_SAMPLES = 4096

#: Samples, copies included, that the statistics of `auto` see at most.
_MOST_COPIES = 8

#: Samples, repetitions included, that the tuning of `auto` sees; at one bit more of it pays longer.
_TUNING_SAMPLES, _TUNING_SAMPLES_BINARY = 24576, 40960

#: Of many samples, tuning sees each so often before it has seen enough (ResNet-8, ternary, three draws of
#: 4,096 images: held-out divergences of 0.215, 0.193 and 0.203 after 20 passes, 0.221, 0.198 and 0.210 after
#: six); and so many in all at most.
_ENOUGH_PASSES, _MOST_TUNING_SAMPLES = 20, 81920
_TUNED_LONGER = ("ternary",)

#: Where tuning brings nothing (ResNet-8 at 4 bits: a KL divergence of 0.0169 before and after).
_NOT_TUNED = ("4", "5", "6", "7", "8")


def default_bits(method: str) -> str:
    """The width, as for --bits, of a method where the user gave none."""
    return "ternary" if method == "sparse-gpfq" else "2"


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


def recipe(method: str, bits: str, samples: int) -> Recipe:
    """The defaults of a method for a width, as for --bits, and a number of calibration samples.

    A method of the literature is taken as published; `auto` adds everything that pays.
    """
    if method != AUTO:
        return Recipe(method)
    copies = max(1, min(_MOST_COPIES, _FEW_SAMPLES // samples))
    passes = -(-_tuning_samples(bits, samples) // samples)
    return Recipe("qronos", "descending", refine=5, compensate=True, ridge=0.1, copies=copies, tune=passes)


def _tuning_samples(bits: str, samples: int) -> int:
    """Samples, repetitions included, that tuning sees."""
    if bits in _NOT_TUNED:
        return 0
    if bits in _TUNED_LONGER:
        return min(max(_TUNING_SAMPLES, _ENOUGH_PASSES * samples), _MOST_TUNING_SAMPLES)
    return _TUNING_SAMPLES_BINARY if bits == "1" else _TUNING_SAMPLES

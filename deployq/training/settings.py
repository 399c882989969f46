"""What a user may choose about tuning, and what came of it. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployq.augmentation import Augmentation
from deployq.errors import UsageError
from deployq.layerwise import IntegerModel

LOSSES = ("auto", "divergence", "squares")


@dataclass(frozen=True)
class TuneSettings:
    """How scales and biases are tuned.

    Attributes:
        passes: over the samples that are trained on; 0 tunes nothing.
        batch: samples per step.
        rate: peak learning rate of Adam: a step changes a scale by up to about this share, a bias
            by up to this share of the standard deviation of the layer's output.
        augmentation: of the images trained on.
        held_out: share of the samples that are never trained on and decide whether to keep the result.
        seed: of the split, the order and the augmentation.
        granularity: "channel" or "layer": what shares a scale, as the network was quantized.
        loss: "divergence" of class probabilities, "squares" of the output, or "auto" (see `objective`).
    """

    passes: int
    batch: int = 64
    rate: float = 1e-2
    augmentation: Augmentation = field(default_factory=Augmentation)
    held_out: float = 0.1
    seed: int = 0
    granularity: str = "channel"
    loss: str = "auto"

    def __post_init__(self) -> None:
        if self.passes < 0 or self.batch < 1 or not 0 < self.rate <= 10:
            raise UsageError(
                f"tuning with {self.passes} passes, batches of {self.batch} and rate {self.rate}",
                why="passes must not be negative, a batch must hold a sample, the rate must be in (0, 10]",
            )
        if not 0 < self.held_out < 1:
            raise UsageError(f"the share {self.held_out} of held-out samples is not in (0, 1)")
        if self.granularity not in ("channel", "layer"):
            raise UsageError(f"unknown granularity {self.granularity!r}", hint="channel or layer")
        if self.loss not in LOSSES:
            raise UsageError(f"unknown loss {self.loss!r}", hint=", ".join(LOSSES))


@dataclass(frozen=True)
class Tuned:
    """Outcome of tuning.

    Attributes:
        network: the tuned network, or the very network given if tuning was skipped or did not help.
        divergence_before: of the integer network given from the float one, on the held-out samples;
            NaN if tuning was skipped.
        divergence_after: of `network`, on the same samples.
        kept: whether `network` is a tuned one.
        note: one sentence for the user.
    """

    network: IntegerModel
    divergence_before: float
    divergence_after: float
    kept: bool
    note: str

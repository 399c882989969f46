"""What a user may choose about tuning, and what came of it. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deployq.augmentation import Augmentation
from deployq.errors import UsageError
from deployq.layerwise import IntegerModel
from deployq.random_streams import Purpose, stream
from deployq.task import TASKS

Indices = npt.NDArray[np.int64]

#: With fewer held-out samples nobody can tell whether tuning helped.
FEWEST_HELD_OUT = 16

#: With fewer samples in all, too few are left to fit the weights to.
FEWEST_TUNED = 64


@dataclass(frozen=True)
class TuneSettings:
    """How scales and biases are tuned.

    Attributes:
        passes: over the samples that are trained on; 0 tunes nothing.
        batch: samples per step.
        rate: peak learning rate of Adam: a step changes a scale by up to about this share, a bias
            by up to this share of the standard deviation of the layer's output.
        augmentation: of the samples trained on.
        held_out: share of the samples that are never trained on and tell whether to keep the result.
        seed: of the split, the order and the augmentation.
        granularity: "channel" or "layer": what shares a scale, as the network was quantized.
        hints: weight of the differences at the ends of residual blocks beside that of the output.
        task: see `deployq.task`.
    """

    passes: int
    batch: int = 64
    rate: float = 2e-2
    augmentation: Augmentation = field(default_factory=Augmentation)
    held_out: float = 0.1
    seed: int = 0
    granularity: str = "channel"
    hints: float = 0.2
    task: str = "auto"

    def __post_init__(self) -> None:
        if self.passes < 0 or self.batch < 1 or not 0 < self.rate <= 10:
            raise UsageError(
                f"tuning with {self.passes} passes, batches of {self.batch} and rate {self.rate}",
                why="passes must not be negative, a batch must hold a sample, the rate must be in (0, 10]",
            )
        if not 0 <= self.hints < float("inf"):
            raise UsageError(f"the weight {self.hints} of hints is negative or not finite")
        if not 0 < self.held_out < 1:
            raise UsageError(f"the share {self.held_out} of held-out samples is not in (0, 1)")
        if self.granularity not in ("channel", "layer"):
            raise UsageError(f"unknown granularity {self.granularity!r}", hint="channel or layer")
        if self.task not in TASKS:
            raise UsageError(f"unknown task {self.task!r}", hint=", ".join(TASKS))


@dataclass(frozen=True)
class Tuned:
    """Outcome of tuning.

    Attributes:
        network: the tuned network, or the very network given if tuning was skipped or made it worse.
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


def split_samples(count: int, settings: TuneSettings) -> tuple[Indices, Indices]:
    """Samples to train on and held-out ones, ascending; none held out where there are too few.

    Who quantizes before tuning should leave the held-out samples out as well: on samples that the
    codes were fitted to, the network before tuning looks better than it is (ResNet-8 with 256 samples:
    0.16 to 0.24 in place of 0.32), and good tuning is refused.
    """
    order = stream(Purpose.TUNING_SPLIT, settings.seed).permutation(count)
    held_out = max(int(count * settings.held_out), FEWEST_HELD_OUT)
    if count < FEWEST_TUNED:
        held_out = 0
    return np.sort(order[held_out:]), np.sort(order[:held_out])

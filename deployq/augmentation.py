"""Changes of calibration samples that stand in for samples the user does not have.

Small shifts and horizontal mirroring of images keep what they show, and move whole values: codes stay
codes, pixels stay pixels. They serve the statistics of the layers and the distillation of
`deployq.training`. Mixtures of two samples, all that can be done to vectors, show nothing real; the
distillation alone has a use for them, as the float network tells what they should give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from deployq.errors import UsageError
from deployq.graph import Shape

Values = TypeVar("Values", bound=np.generic)

#: Names a user may give; "auto" is resolved by `augmentation_for`.
AUGMENTATIONS = ("auto", "none", "shift", "flip", "mix")

#: A shift moves an image by up to its height or width over this number, in either direction.
_SHIFT_DIVISOR = 8


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a sample.

    Attributes:
        name: "none"; "shift", by up to an eighth of each side; "flip", a shift and, for every second
            image on average, a horizontal mirroring; "mix", any part of the way to another sample.
    """

    name: str = "none"

    def __post_init__(self) -> None:
        if self.name not in AUGMENTATIONS[1:]:
            raise UsageError(
                f"unknown augmentation {self.name!r}", where="--augmentation", hint=", ".join(AUGMENTATIONS)
            )

    @property
    def changes(self) -> bool:
        """Whether samples are changed at all."""
        return self.name != "none"

    @property
    def lifelike(self) -> Augmentation:
        """What of it gives samples like real ones, for the statistics of layers and for judging.

        Mixtures have the mean of the samples and less of their spread: they would add nothing to
        second-order statistics.
        """
        return Augmentation() if self.name == "mix" else self


def augmentation_for(name: str, input_shape: Shape) -> Augmentation:
    """The augmentation of a name for inputs of a shape, "auto" resolved.

    Three channels are a natural image, whose class does not depend on left and right. What one
    channel shows (a digit, a spectrogram) may, so nothing is assumed of it. A vector has no
    neighbourhood to be shifted in; it can only be mixed with another one.

    Args:
        name: one of `AUGMENTATIONS`.
        input_shape: (C, H, W) or (features,).

    Raises:
        UsageError: unknown name.
    """
    image = len(input_shape) == 3
    if name == "auto":
        if not image:
            return Augmentation("mix")
        return Augmentation("flip" if input_shape[0] == 3 else "none")
    chosen = Augmentation(name)
    return chosen if image or name == "mix" else Augmentation("none")


def augmented(
    batch: npt.NDArray[Values], augmentation: Augmentation, generator: np.random.Generator
) -> npt.NDArray[Values]:
    """A batch with every sample changed at random.

    What a shift uncovers repeats the border of the image (on ResNet-8 as good as a reflection, and
    better than a constant, which makes an edge that no photograph has).

    Args:
        batch: (n, C, H, W) or (n, features) of any type; vectors are not moved.
        augmentation: what may happen.
        generator: decides; a batch of n samples draws the same numbers whatever its type.

    Returns:
        An array of the same shape and type. The memory order of moved images is (n, H, W, C).
    """
    if augmentation.name == "mix":
        return _mixed(batch, generator)
    if not augmentation.changes or batch.ndim != 4:
        return batch
    count, _, height, width = batch.shape
    rows = _shifted(count, height, generator)
    columns = _shifted(count, width, generator)
    if augmentation.name == "flip":
        mirrored = generator.random(count) < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    samples = np.arange(count)
    moved = batch.transpose(0, 2, 3, 1)[
        samples[:, np.newaxis, np.newaxis], rows[:, :, np.newaxis], columns[:, np.newaxis, :]
    ]
    return np.transpose(moved, (0, 3, 1, 2))


def _shifted(count: int, size: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices (count, size) along an axis of length `size`, shifted at random, clamped to the border."""
    largest = size // _SHIFT_DIVISOR
    shifts = generator.integers(-largest, largest + 1, size=(count, 1))
    indices: npt.NDArray[np.int64] = np.clip(np.arange(size) + shifts, 0, size - 1)
    return indices


def _mixed(batch: npt.NDArray[Values], generator: np.random.Generator) -> npt.NDArray[Values]:
    """Every sample moved part of the way to another one of the batch; integers are rounded half up."""
    share = generator.random((len(batch), *(1,) * (batch.ndim - 1)), dtype=np.float32)
    own = np.asarray(batch, dtype=np.float32)
    mixed = own + share * (own[generator.permutation(len(batch))] - own)
    if np.issubdtype(batch.dtype, np.integer):
        mixed = np.floor(mixed + np.float32(0.5))
    return np.asarray(mixed, dtype=batch.dtype)

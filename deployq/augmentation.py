"""Label-preserving changes of calibration images: small shifts and horizontal mirroring.

They stand in for samples the user does not have, both for the statistics of the layers and for
the distillation of `deployq.training`. Every sample is changed by itself, and only by moving whole
values: codes stay codes, pixels stay pixels.
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
AUGMENTATIONS = ("auto", "none", "shift", "flip")

#: A shift moves an image by up to its height or width over this number, in either direction.
_SHIFT_DIVISOR = 8


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image.

    Attributes:
        name: "none"; "shift", by up to an eighth of each side; "flip", a shift and, for every second
            image on average, a horizontal mirroring.
    """

    name: str = "none"

    def __post_init__(self) -> None:
        if self.name not in AUGMENTATIONS[1:]:
            raise UsageError(
                f"unknown augmentation {self.name!r}", where="--augmentation", hint=", ".join(AUGMENTATIONS)
            )

    @property
    def changes(self) -> bool:
        """Whether images are changed at all."""
        return self.name != "none"


def augmentation_for(name: str, input_shape: Shape) -> Augmentation:
    """The augmentation of a name for inputs of a shape, "auto" resolved.

    Three channels are a natural image, whose class does not depend on left and right. What one
    channel shows (a digit, a spectrogram) may, so nothing is assumed of it. A vector has no
    neighbourhood to be shifted in and is never changed.

    Args:
        name: one of `AUGMENTATIONS`.
        input_shape: (C, H, W) or (features,).

    Raises:
        UsageError: unknown name.
    """
    chosen = Augmentation("flip" if name == "auto" else name)
    image = len(input_shape) == 3
    if not image or (name == "auto" and input_shape[0] != 3):
        return Augmentation("none")
    return chosen


def augmented(
    batch: npt.NDArray[Values], augmentation: Augmentation, generator: np.random.Generator
) -> npt.NDArray[Values]:
    """A batch with every sample changed at random.

    What a shift uncovers repeats the border of the image (on ResNet-8 as good as a reflection, and
    better than a constant, which makes an edge that no photograph has).

    Args:
        batch: (n, C, H, W) of any type; batches (n, features) are returned as they are.
        augmentation: what may happen.
        generator: decides; a batch of n samples draws the same numbers whatever its type.

    Returns:
        An array of the same shape and type. Its memory order is (n, H, W, C).
    """
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

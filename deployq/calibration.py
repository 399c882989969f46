"""Calibration samples, as the float network, the quantizer and the tuning see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.augmentation import Augmentation, augmentation_for, augmented
from deployq.calibrate import RangeMethod, calibrate
from deployq.config import BuildConfig
from deployq.data import Samples
from deployq.errors import UsageError
from deployq.graph import Graph, Quantization, Shape
from deployq.layerwise import dequantize, quantize_values
from deployq.random_streams import Purpose, stream

Array = npt.NDArray[Any]
Progress = Callable[[str], None]

#: Samples quantized together.
_BATCH = 64


@dataclass(frozen=True)
class Calibration:
    """A float network, its calibration samples and what they say about the activations.

    Attributes:
        graph: simplified float graph.
        samples: calibration samples.
        quantizations: of every tensor.
        augmentation: what may be done to a sample.
    """

    graph: Graph
    samples: Samples
    quantizations: Mapping[str, Quantization]
    augmentation: Augmentation

    @property
    def input(self) -> Quantization:
        """Quantization of the network's input."""
        return self.quantizations[self.graph.input]

    def codes(self) -> npt.NDArray[np.int8]:
        """The samples as the firmware gets them, (n, ...)."""
        return self.samples.quantized(self.input)

    def batches(self, copies: int, seed: int) -> Iterator[tuple[Array, Array]]:
        """Pairs (float32 input, the same in int8); equal in value where the samples are pixels.

        Args:
            copies: times each sample comes, all but the first time augmented; once if that is not possible.
            seed: of the augmentation.
        """
        possible = self.augmentation.lifelike
        for copy in range(copies if possible.changes else 1):
            for number, first in enumerate(range(0, len(self.samples), _BATCH)):
                part = slice(first, first + _BATCH)
                chosen = possible if copy else Augmentation()
                generator = stream(Purpose.AUGMENTED_COPIES, seed, copy, number)
                if self.samples.is_pixels:
                    codes = augmented(self.samples.quantized(self.input, part), chosen, generator)
                    yield dequantize(codes, self.input), codes
                elif copy:
                    real = augmented(self.samples.real(part), chosen, generator)
                    yield real, quantize_values(real, self.input)
                else:
                    yield self.samples.real(part), self.samples.quantized(self.input, part)


def calibrated(
    graph: Graph,
    samples: Samples,
    input_quantization: Quantization | None,
    config: BuildConfig,
    progress: Progress,
) -> Calibration:
    """Choose the quantization of every activation.

    Args:
        graph: simplified float graph.
        samples: calibration samples.
        input_quantization: fixed by the data, or None to be calibrated.
        config: range method and augmentation.
        progress: called with one line.

    Raises:
        UsageError: the network produces NaN or infinity on the samples, or copies of samples are asked for
            that nothing may be done to.
    """
    shape = graph.tensors[graph.input].shape
    augmentation = allowed_augmentation(config, shape)
    progress(f"calibrate on {len(samples)} samples")
    parts = [slice(first, first + _BATCH) for first in range(0, len(samples), _BATCH)]
    quantizations = calibrate(
        graph,
        lambda: (samples.real(part) for part in parts),
        RangeMethod(config.activation_range, config.percentile),
        input_quantization,
    )
    return Calibration(graph, samples, quantizations, augmentation)


def allowed_augmentation(config: BuildConfig, input_shape: Shape) -> Augmentation:
    """What a configuration allows to be done to samples of a shape.

    Raises:
        UsageError: copies are asked for of samples that nothing may be done to; they would change nothing.
    """
    augmentation = augmentation_for(config.augmentation, input_shape)
    if config.copies is not None and config.copies > 1 and not augmentation.lifelike.changes:
        vectors = len(input_shape) != 3
        unasked = not vectors and config.augmentation == "auto"
        why = "copies differ by shifts and mirroring, and "
        why += "the samples are vectors, not images" if vectors else "--augmentation allows none"
        raise UsageError(
            f"{config.copies} copies of samples that are not augmented",
            where="--copies",
            why="only images of three channels are augmented unless asked for" if unasked else why,
            hint="--augmentation shift if the class does not depend on the place"
            if unasked
            else "--copies 1",
        )
    return augmentation

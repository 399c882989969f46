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
from deployq.graph import Graph, Quantization
from deployq.layerwise import dequantize, quantize_values

Array = npt.NDArray[Any]
Progress = Callable[[str], None]

#: Samples quantized together.
_BATCH = 64

#: Distinguishes the draws of the augmentation from those of the position sampling.
_AUGMENTATION_DRAWS = 2**32


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
            copies: times each sample comes, all but the first time augmented.
            seed: of the augmentation.
        """
        for copy in range(copies if self.augmentation.changes else 1):
            for number, first in enumerate(range(0, len(self.samples), _BATCH)):
                part = slice(first, first + _BATCH)
                chosen = self.augmentation if copy else Augmentation()
                generator = np.random.default_rng([_AUGMENTATION_DRAWS, seed, copy, number])
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
        UsageError: the network produces NaN or infinity on the samples.
    """
    progress(f"calibrate on {len(samples)} samples")
    parts = [slice(first, first + _BATCH) for first in range(0, len(samples), _BATCH)]
    quantizations = calibrate(
        graph,
        lambda: (samples.real(part) for part in parts),
        RangeMethod(config.activation_range, config.percentile),
        input_quantization,
    )
    shape = graph.tensors[graph.input].shape
    return Calibration(graph, samples, quantizations, augmentation_for(config.augmentation, shape))

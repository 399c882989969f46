"""From a float network and samples to an integer network: calibrate, quantize, tune."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.alphabet import alphabet, default_alphabet
from deployq.augmentation import Augmentation, augmentation_for, augmented
from deployq.calibrate import RangeMethod, calibrate
from deployq.config import AUTO_BITS, BuildConfig
from deployq.data import Samples
from deployq.graph import Graph, Quantization
from deployq.layerwise import (
    IntegerModel,
    WeightSettings,
    dequantize,
    quantize_graph,
    quantize_values,
)
from deployq.quantizers.options import SolverOptions
from deployq.recipes import Recipe, recipe

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


def recipe_of(config: BuildConfig, samples: int) -> Recipe:
    """The method's recipe with what the user set by hand."""
    chosen = recipe(config.method, samples)
    given = {name: getattr(config, name) for name in ("order", "refine", "ridge", "copies", "tune")}
    return replace(chosen, **{name: value for name, value in given.items() if value is not None})


def weight_settings(config: BuildConfig, chosen: Recipe) -> WeightSettings:
    """How the weights are quantized; without the alphabets of single layers."""
    named = config.alphabet or default_alphabet("8" if config.bits == AUTO_BITS else config.bits).name
    options = SolverOptions(chosen.order, config.threshold, config.sparsity, config.directions, chosen.ridge)
    return WeightSettings(
        alphabet(named),
        chosen.method,
        config.granularity,
        config.seed,
        options,
        chosen.refine,
        compensate=chosen.compensate,
    )


def quantized(calibration: Calibration, config: BuildConfig, progress: Progress) -> IntegerModel:
    """Quantize the weights, and tune scales and biases if the recipe says so."""
    chosen = recipe_of(config, len(calibration.samples))
    settings = weight_settings(config, chosen)
    network = quantize_graph(
        calibration.graph,
        calibration.quantizations,
        calibration.batches(chosen.copies, config.seed),
        settings,
        progress,
    )
    return tuned(calibration, network, chosen, config, progress)


def tuned(
    calibration: Calibration, network: IntegerModel, chosen: Recipe, config: BuildConfig, progress: Progress
) -> IntegerModel:
    """The network after the recipe's tuning, with a note on what it brought."""
    if not chosen.tune:
        return network
    from deployq.training.distill import tune
    from deployq.training.settings import TuneSettings

    progress("tune scales and biases")
    settings = TuneSettings(
        chosen.tune,
        augmentation=calibration.augmentation,
        seed=config.seed,
        granularity=config.granularity,
    )
    outcome = tune(calibration.graph, network, calibration.codes(), settings, progress)
    return replace(outcome.network, notes=(*network.notes, outcome.note))

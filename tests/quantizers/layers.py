"""Random layers, and the textbook form of what the quantizers compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.alphabet import Alphabet
from deployq.quantizers.statistics import LayerStatistics, StatisticsAccumulator

Array = npt.NDArray[Any]

ALPHABETS = ("binary", "ternary", "midrise-2", "midtread-2", "midtread-3", "midtread-4", "symmetric-8")


@dataclass(frozen=True)
class Layer:
    """Inputs of both networks (groups, m, N) and weights (groups, N, C)."""

    quantized: Array
    analog: Array
    weights: Array

    @property
    def flat_weights(self) -> Array:
        """(out, N), output channels group by group."""
        return self.weights.transpose(0, 2, 1).reshape(-1, self.weights.shape[1])

    def statistics(self, *, centred: bool = True) -> LayerStatistics:
        """From one chunk in float64."""
        accumulator = StatisticsAccumulator(self.quantized.shape[0], self.quantized.shape[2])
        accumulator.update(self.quantized, self.analog)
        return accumulator.finish(centred=centred)


def random_layer(
    seed: int, inputs: int, channels: int, samples: int, *, groups: int = 1, noise: float = 0.1
) -> Layer:
    """Correlated inputs after a ReLU, with non-zero mean; X~ is X plus an error."""
    generator = np.random.default_rng(seed)
    rank = max(1, inputs // 10)
    mixing = generator.normal(size=(groups, rank, inputs))
    hidden = generator.normal(size=(groups, samples, rank)) @ mixing / np.sqrt(rank)
    analog = np.maximum(hidden + 0.3 * generator.normal(size=(groups, samples, inputs)), 0)
    quantized = analog + noise * generator.normal(size=analog.shape) if noise else analog
    return Layer(quantized, analog, generator.normal(size=(groups, inputs, channels)))


def low_rank_layer(seed: int, inputs: int, channels: int, rank: int) -> Layer:
    """Gaussian inputs in few directions, equal in both networks: where following the path pays most."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(1, 4 * rank, rank)) @ generator.normal(size=(1, rank, inputs))
    return Layer(rows, rows, generator.normal(size=(1, inputs, channels)))


def nearest_by_search(values: Array, alphabet: Alphabet) -> Array:
    """The nearest level by looking at all of them, the higher one of two equally near."""
    descending = alphabet.values[::-1].astype(np.float64)
    return descending[np.argmin(np.abs(values[..., None] - descending), axis=-1)]


def greedy_on_samples(layer: Layer, alphabet: Alphabet, scales: Array) -> Array:
    """GPFQ as 2010.15979 and 2201.11113 write it: neuron by neuron, on the error vector u.

    Args:
        layer: the layer; its inputs are used as they are, not centred.
        alphabet: levels.
        scales: (groups, C).

    Returns:
        Levels (groups, N, C).
    """
    levels = np.zeros_like(layer.weights)
    groups, inputs, channels = layer.weights.shape
    for group in range(groups):
        for channel in range(channels):
            scale = scales[group, channel]
            error = np.zeros(layer.analog.shape[1])
            for t in range(inputs):
                column = layer.quantized[group, :, t]
                error = error + layer.weights[group, t, channel] * layer.analog[group, :, t]
                projection = column @ error / (column @ column)
                level = nearest_by_search(np.asarray(projection / scale), alphabet)
                levels[group, t, channel] = level
                error = error - scale * level * column
    return levels


def squared_error(layer: Layer, levels: Array, scales: Array) -> Array:
    """|X w - X~ q|^2 of every neuron about its mean, (groups, C), from the samples."""
    residual = layer.analog @ layer.weights - layer.quantized @ (levels * scales[:, None, :])
    residual -= residual.mean(axis=1, keepdims=True)
    return np.asarray((residual**2).sum(axis=1))

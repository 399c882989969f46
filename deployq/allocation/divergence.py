"""How far a quantized network is from the float network, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deployq.arithmetic import FloatArray
from deployq.graph import Graph
from deployq.ops.base import Array
from deployq.task import is_classifier

MEASURES = ("KL", "squared error")


def measure_of(graph: Graph, task: str = "auto") -> str:
    """Which measure fits a network: "KL" a classifier, "squared error" any other; see `deployq.task`."""
    return MEASURES[0] if is_classifier(graph, task) else MEASURES[1]


@dataclass(frozen=True)
class Reference:
    """Outputs of the float network on some samples, in chunks.

    The loss of a sample is, by `measure`, "KL": KL(float || quantized) of the softmax of the outputs, in
    nats; "squared error": the squared difference over the mean squared deviation of the float outputs
    from their mean. The divergence of a network is the mean loss.

    Attributes:
        measure: one of `MEASURES`.
        chunks: float outputs (n, ...), one array for each chunk of samples.
    """

    measure: str
    chunks: tuple[Array, ...]

    @cached_property
    def spread(self) -> float:
        """Mean squared deviation of the float outputs, summed over the elements of a sample."""
        everything = np.concatenate(self.chunks).astype(np.float64)
        deviations = everything - everything.mean(axis=0)
        return float(np.sum(deviations**2)) / len(everything) or 1.0

    def losses(self, outputs: Sequence[Array], every: int = 1) -> FloatArray:
        """Loss of each sample (N,), from outputs of the quantized network chunk by chunk.

        Args:
            outputs: of every `every`-th chunk.
            every: see `outputs`.
        """
        chunks = self.chunks[::every]
        if self.measure == "KL":
            return np.concatenate([_kl(*pair) for pair in zip(chunks, outputs, strict=True)])
        squares = [
            np.sum((analog.astype(np.float64) - quantized).reshape(len(analog), -1) ** 2, axis=1)
            for analog, quantized in zip(chunks, outputs, strict=True)
        ]
        return np.concatenate(squares) / self.spread

    def divergence(self, outputs: Sequence[Array], every: int = 1) -> float:
        """Mean loss; arguments as for `losses`."""
        return float(self.losses(outputs, every).mean())

    def agreement(self, outputs: Sequence[Array]) -> float:
        """Percent of samples on which both networks have the same largest output."""
        pairs = list(zip(self.chunks, outputs, strict=True))
        same = sum(int(np.count_nonzero(_top(analog) == _top(quantized))) for analog, quantized in pairs)
        return 100.0 * same / sum(len(chunk) for chunk in self.chunks)


def _top(outputs: Array) -> Array:
    return np.asarray(outputs.reshape(len(outputs), -1).argmax(axis=1))


def _kl(analog: Array, quantized: Array) -> FloatArray:
    """KL(softmax(analog) || softmax(quantized)) of each row (n, classes)."""
    first, second = _log_softmax(analog), _log_softmax(quantized)
    return np.asarray(np.sum(np.exp(first) * (first - second), axis=1))


def _log_softmax(values: Array) -> FloatArray:
    rows = values.reshape(len(values), -1).astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return np.asarray(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))

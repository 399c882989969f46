"""The error of another branch that a layer's output is added to, and that the layer can make up for.

Where Y = X W is added to Z, and Z~ is what the quantized network has in its place, the layer is to
approximate X W + E with E = Z - Z~: then the sum is right, not only the layer's own part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.arithmetic import FloatArray

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Residual:
    """Second-order statistics of E with the inputs of a layer, about the means.

    Attributes:
        quantized: X~^T E, (groups, N, C).
        analog: X^T E, (groups, N, C).
        energy: |E|^2 of every output, (groups, C).
        mean: of E, (groups, C).
    """

    quantized: FloatArray
    analog: FloatArray
    energy: FloatArray
    mean: FloatArray


class ResidualAccumulator:
    """Adds up chunks of rows; memory does not depend on their number.

    Args:
        groups: groups of the layer.
        inputs: inputs N of one neuron.
        channels: outputs C of one group.
    """

    def __init__(self, groups: int, inputs: int, channels: int) -> None:
        shape = (groups, inputs, channels)
        self._products = np.zeros((2, *shape))
        self._inputs = np.zeros((2, groups, inputs))
        self._shifts = np.zeros((2, groups, inputs))
        self._energy, self._sum = np.zeros((groups, channels)), np.zeros((groups, channels))
        self._samples = 0

    def update(self, quantized: Array, analog: Array, error: Array) -> None:
        """Add a chunk.

        Args:
            quantized: X~, (groups, rows, N).
            analog: X, the same shape.
            error: E, (groups, rows, C).
        """
        if self._samples == 0:
            self._shifts[:] = [rows.mean(axis=1, dtype=np.float64) for rows in (quantized, analog)]
        for side, rows in enumerate((quantized, analog)):
            shifted = rows - self._shifts[side, :, None, :].astype(rows.dtype)
            self._products[side] += shifted.transpose(0, 2, 1) @ error
            self._inputs[side] += shifted.sum(axis=1, dtype=np.float64)
        self._energy += np.square(error, dtype=np.float64).sum(axis=1)
        self._sum += error.sum(axis=1, dtype=np.float64)
        self._samples += quantized.shape[1]

    def finish(self) -> Residual:
        """The statistics of all rows so far, about their means."""
        mean = self._sum / self._samples
        moved = self._products - self._inputs[:, :, :, None] * mean[:, None, :]
        energy = np.maximum(self._energy - self._samples * mean**2, 0)
        return Residual(moved[0], moved[1], energy, mean)

"""The element order of activations in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployq.graph import Shape
from deployq.ops.base import Array


@dataclass(frozen=True)
class Order:
    """Element order of a buffer: the transposition of a (rows, columns) matrix in graph order.

    HWC of a tensor (C, H, W) is Order(C, H * W).
    """

    rows: int
    columns: int

    def natural_index(self) -> Array:
        """Index in graph order of each element of the buffer."""
        return np.arange(self.rows * self.columns).reshape(self.rows, self.columns).T.reshape(-1)


def kernel_order(shape: Shape) -> Order | None:
    """The order kernels keep a tensor of this shape in; None where it equals the graph's order."""
    if len(shape) != 3 or shape[0] == 1 or shape[1] * shape[2] == 1:
        return None
    return Order(shape[0], shape[1] * shape[2])

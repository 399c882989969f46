"""GPFQ on the samples themselves, for layers with more inputs than samples.

The Gram form of `deployq.quantizers.gpfq` needs matrices of N x N, which is wasted memory and work when a
layer has more inputs N than rows m, or very many inputs and one known scale. Here the error matrix
U = X W - X~ Q of the inputs decided so far, (m, C), is kept, as the papers write it, but a block of inputs
at a time:

    block targets = X~_J^T U + tril(X~_J^T X_J) W_J,   U <- U + X_J W_J - X~_J Q_J.

Both are done for a tile of rows while it is in the cache: first the update for the block before, then the
products with this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.arithmetic import FloatArray
from deployq.quantizers.recursion import Choose, decided
from deployq.quantizers.registry import in_scale_units

Array = npt.NDArray[Any]

#: Inputs decided between two updates of the error matrix.
_BLOCK = 64

#: Elements of the error matrix in a tile, and the fewest rows of one.
_TILE, _FEWEST_ROWS = 2**16, 256


@dataclass(frozen=True)
class SamplePath:
    """The recursion of GPFQ without a Gram matrix of all inputs; O(m N K C), five matrix products per block.

    The levels are those of the recursion of arXiv 2010.15979 and 2201.11113, with their guarantee, up to the
    rounding of the precision. It takes 6 m N K C operations for K scales, and m K C numbers besides the rows.

    Attributes:
        quantized: X~, (groups, m, N), float32 or float64.
        analog: X, the same shape; the same object if both networks agree, which saves two products.
        weights: (groups, N, C).
        precision: of the large products and the error matrix.

    Raises:
        ValueError: the shapes do not fit.
    """

    quantized: Array
    analog: Array
    weights: FloatArray
    precision: type[np.floating[Any]] = np.float64

    def __post_init__(self) -> None:
        groups, inputs, _ = self.weights.shape
        expected = (groups, self.quantized.shape[1], inputs)
        if self.quantized.shape != expected or self.analog.shape != expected:
            raise ValueError(f"expected rows {expected}, got {self.quantized.shape} and {self.analog.shape}")

    def run(self, scales: FloatArray, choose: Choose) -> FloatArray:
        """Levels of all neurons and scales at once.

        Args:
            scales: (groups, K * C), positive.
            choose: the quantizer Q.

        Returns:
            Levels (groups, N, K * C).
        """
        groups, inputs, _ = self.weights.shape
        # In units of the scale, so that every column of the error has a scale of its own.
        error = np.zeros((groups, self.quantized.shape[1], scales.shape[1]), dtype=self.precision)
        levels = np.empty((groups, inputs, scales.shape[1]))
        change = None
        for start in range(0, inputs, _BLOCK):
            block = slice(start, min(start + _BLOCK, inputs))
            units = in_scale_units(self.weights[:, block], scales)
            gram, cross, path = self._products(block, error, change)
            energy = np.diagonal(gram, axis1=1, axis2=2)[:, :, None]
            dead = energy <= 0
            norms = np.where(dead, 1.0, energy)
            goals = np.where(dead, units, (path + np.tril(cross) @ units) / norms)
            levels[:, block] = decided(gram / norms, goals, choose)
            change = _Change(block, units.astype(self.precision), levels[:, block].astype(self.precision))
        return levels

    def _products(
        self, block: slice, error: Array, change: _Change | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """X~_J^T X~_J, X~_J^T X_J and X~_J^T U, once U is up to date: it is changed in place."""
        same, count = self.analog is self.quantized, block.stop - block.start
        groups, samples, columns = error.shape
        gram, cross = np.zeros((2, groups, count, count))
        path = np.zeros((groups, count, columns))
        height = max(_TILE // columns, _FEWEST_ROWS)
        for start in range(0, samples, height):
            tile = slice(start, start + height)
            if change is not None:
                self._update(error[:, tile], tile, change)
            rows = self._part(self.quantized, tile, block)
            transposed = rows.transpose(0, 2, 1)
            gram += transposed @ rows
            if not same:
                cross += transposed @ self._part(self.analog, tile, block)
            path += transposed @ error[:, tile]
        return gram, gram if same else cross, path

    def _update(self, error: Array, tile: slice, change: _Change) -> None:
        """Add to rows of U, in place, what the last block changed."""
        rows = self._part(self.quantized, tile, change.block)
        if self.analog is self.quantized:
            error += rows @ (change.weights - change.levels)
        else:
            error -= rows @ change.levels
            error += self._part(self.analog, tile, change.block) @ change.weights

    def _part(self, rows: Array, tile: slice, block: slice) -> Array:
        return rows[:, tile, block].astype(self.precision, copy=False)


@dataclass(frozen=True)
class _Change:
    """A block of inputs that was decided.

    Attributes:
        block: its place.
        weights: in units of the scale, (groups, n, K * C).
        levels: the same shape.
    """

    block: slice
    weights: Array
    levels: Array

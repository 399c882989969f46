"""The rows of a layer's inputs as statistics, where they are fewer than the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.arithmetic import FloatArray
from deployq.errors import UsageError
from deployq.quantizers.objective import Objective
from deployq.quantizers.statistics import CONSTANT

Array = npt.NDArray[Any]

#: Rows that are converted to float64 at a time.
_TILE = 256


@dataclass(frozen=True)
class SampleObjective(Objective):
    """The objective from the rows.

    Attributes:
        rows: X~, (groups, m, N).
        outputs: X W, (groups, m, C).
        weights: (groups, N, C).
        identity: groups (groups,) in which the identity stands for both X and X~.
    """

    rows: Array
    outputs: FloatArray
    weights: FloatArray
    identity: npt.NDArray[np.bool_]

    def terms(self, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """<X~ q, X w> and |X~ q|^2."""
        groups, inputs, candidates, channels = levels.shape
        linear, quadratic = np.zeros((2, groups, candidates, channels))
        flat = levels.reshape(groups, inputs, -1)
        for tile in _tiles(self.rows):
            products = self.rows[:, tile].astype(np.float64) @ flat
            products = products.reshape(groups, -1, candidates, channels)
            linear += np.einsum("gmkc,gmc->gkc", products, self.outputs[:, tile])
            quadratic += np.einsum("gmkc,gmkc->gkc", products, products)
        for group in np.flatnonzero(self.identity):
            linear[group] = np.einsum("nkc,nc->kc", levels[group], self.weights[group])
            quadratic[group] = np.einsum("nkc,nkc->kc", levels[group], levels[group])
        return linear, quadratic


@dataclass(frozen=True)
class SampleStatistics:
    """The inputs of one layer row by row, about their means; every array has the group as first axis.

    Takes m (2 N + K C) numbers to solve K scales side by side, where `LayerStatistics` takes 3 N^2.

    Attributes:
        quantized: rows of X~ minus their mean, (groups, m, N), in the precision they came in.
        analog: of X, the same shape; the same object if both networks agree.
        mean_quantized: mean row of X~, (groups, N).
        mean_analog: mean row of X, (groups, N).
        energy: |X~_t|^2 of every column about the mean, (groups, N).
        identity: groups (groups,) in which the identity stands for both X and X~.
    """

    quantized: Array
    analog: Array
    mean_quantized: FloatArray
    mean_analog: FloatArray
    energy: FloatArray
    identity: npt.NDArray[np.bool_]

    @property
    def dead(self) -> npt.NDArray[np.bool_]:
        """Inputs that are constant in X~, (groups, N)."""
        return self.energy <= 0

    @property
    def residual(self) -> None:
        """Layers that make up for another branch are solved on products."""
        return None

    @property
    def finite(self) -> bool:
        """Whether all rows are: otherwise the sums of their columns are not."""
        sums = (self.mean_quantized, self.mean_analog, self.energy)
        return all(np.isfinite(array).all() for array in sums)

    @property
    def nbytes(self) -> int:
        """Of the rows."""
        return self.quantized.nbytes + (0 if self.analog is self.quantized else self.analog.nbytes)

    def objective(self, weights: FloatArray) -> SampleObjective:
        """The error of quantized weights for real weights (groups, N, C)."""
        tiles = [self.analog[:, tile].astype(np.float64) @ weights for tile in _tiles(self.analog)]
        outputs = np.concatenate(tiles, axis=1)
        energy = np.einsum("gmc,gmc->gc", outputs, outputs)
        own = np.einsum("gnc,gnc->gc", weights, weights)
        energy = np.where(self.identity[:, None], own, energy)
        return SampleObjective(energy, self.quantized, outputs, weights, self.identity)

    def with_identity(self, groups: npt.NDArray[np.bool_]) -> SampleStatistics:
        """The statistics with the identity for the rows of the chosen groups (groups,)."""
        return replace(self, identity=self.identity | groups)

    def without_residual(self) -> SampleStatistics:
        """The statistics themselves."""
        return self

    def reordered(self, order: npt.NDArray[np.intp]) -> SampleStatistics:
        """The statistics with input order[g, t] of group g at place t; order is (groups, N)."""

        def columns(rows: Array) -> Array:
            return np.take_along_axis(rows, order[:, None, :], axis=2)

        quantized = columns(self.quantized)
        return replace(
            self,
            quantized=quantized,
            analog=quantized if self.analog is self.quantized else columns(self.analog),
            mean_quantized=np.take_along_axis(self.mean_quantized, order, axis=1),
            mean_analog=np.take_along_axis(self.mean_analog, order, axis=1),
            energy=np.take_along_axis(self.energy, order, axis=1),
        )


class SampleAccumulator:
    """Collects chunks of rows.

    Args:
        groups: groups of the layer.
        inputs: inputs N of one neuron.
        samples: rows there will be at most.
    """

    def __init__(self, groups: int, inputs: int, samples: int) -> None:
        self._shape = (groups, samples, inputs)
        self._quantized: Array | None = None
        self._analog: Array | None = None
        self._samples = 0

    def update(self, quantized: Array, analog: Array) -> None:
        """Add a chunk of rows.

        Args:
            quantized: X~, (groups, rows, N), float32 or float64; the first chunk decides for all.
            analog: X, the same shape; the same object in every chunk if both networks agree, which saves
                half the memory.

        Raises:
            ValueError: the shapes do not fit, or there are more rows than announced.
        """
        groups, most, inputs = self._shape
        stop = self._samples + quantized.shape[1]
        if quantized.shape != analog.shape or quantized.shape != (groups, quantized.shape[1], inputs):
            raise ValueError(
                f"expected two arrays ({groups}, rows, {inputs}), got {quantized.shape} and {analog.shape}"
            )
        if stop > most:
            raise ValueError(f"{stop} rows, announced were {most}")
        if self._quantized is None:
            self._quantized = np.empty(self._shape, dtype=quantized.dtype)
        if self._analog is None and analog is not quantized:
            self._analog = np.empty_like(self._quantized)
            self._analog[:, : self._samples] = self._quantized[:, : self._samples]
        self._quantized[:, self._samples : stop] = quantized
        if self._analog is not None:
            self._analog[:, self._samples : stop] = analog
        self._samples = stop

    def finish(self) -> SampleStatistics:
        """The rows so far about their means; takes them over, so that it can be called once.

        Raises:
            UsageError: no rows were added.
        """
        if self._quantized is None or self._samples == 0:
            raise UsageError("there are no calibration samples", where="--calib", hint="give at least one")
        quantized = self._quantized[:, : self._samples]
        mean_quantized, energy = _centre(quantized)
        analog, mean_analog = quantized, mean_quantized
        if self._analog is not None:
            analog = self._analog[:, : self._samples]
            mean_analog, _ = _centre(analog)
        self._quantized = self._analog = None
        identity = np.zeros(len(energy), dtype=np.bool_)
        return SampleStatistics(quantized, analog, mean_quantized, mean_analog, energy, identity)


def _tiles(rows: Array) -> Iterator[slice]:
    return (slice(start, start + _TILE) for start in range(0, rows.shape[1], _TILE))


def _centre(rows: Array) -> tuple[FloatArray, FloatArray]:
    """Subtract from rows (groups, m, N), in place, their mean; columns that do not vary become zero.

    Returns:
        The mean and the energy of the columns about it, (groups, N).
    """
    mean = rows.mean(axis=1, dtype=np.float64)
    energy = np.zeros_like(mean)
    for tile in _tiles(rows):
        rows[:, tile] = rows[:, tile] - mean[:, None]
        energy += np.square(rows[:, tile], dtype=np.float64).sum(axis=1)
    constant = energy <= CONSTANT * rows.shape[1] * mean**2
    for group in range(len(rows)):
        rows[group][:, constant[group]] = 0
    return mean, np.where(constant, 0.0, energy)

"""Saturate, then round (Maly and Saab, arXiv 2209.03487).

A neuron w acts on the data only through X w. When the layer has more inputs than the data have
directions, X has a kernel, and w may be replaced by any z with X z = X w. Walking along the kernel of
the columns whose weights are still free until one of them meets an end of its range, fixing that
one, and going on, leaves at most rank(X) weights that are not at an end. Rounding then changes
these alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import qr

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.quantizers.registry import Problem, Solve, in_scale_units, quantizer

IntArray = npt.NDArray[np.intp]

#: Directions with less than this part of the energy of the strongest are rounding of float32 rows.
_NEGLIGIBLE = 1e-7

#: Of data without a large kernel, directions with this part of the energy are kept, at most a quarter of the
#: inputs (few of the others could saturate), and not more than take seconds per scale.
_ENERGY, _INPUTS_PER_DIRECTION, _MOST_DIRECTIONS = 0.9, 4, 128

#: Projections that spread what clipped weights contributed over the others.
_PROJECTIONS = 20

#: Columns that enter the walk between two factorizations of the basis: these, or a part of the directions.
_BLOCK, _DIRECTIONS_PER_COLUMN = 32, 6

#: Elements of the tableau of the neurons that walk together, so that it stays in the cache.
_TABLEAU = 2**18

#: A basic weight that moves less than this per unit of the entering weight does not limit the step.
_STILL = 1e-7


@quantizer("maly-saab")
def prepare(problem: Problem) -> Solve:
    """Saturation along the kernel of the data, then memoryless rounding; O(N r^2 K C) for r directions.

    The paper walks until weights meet +-|w|_inf. Here the ends are the two levels next to each weight. For
    one bit that is the same with the searched scale in place of |w|_inf. For more it keeps the
    guarantee, because a saturated weight is a level either way, but no weight moves by more than a step,
    so that the directions that were left out see rounding noise only (ResNet-8, 4 bits: a relative
    error of 0.12 to 0.44 instead of 0.20 to 0.59). Weights outside the range of the alphabet are clipped,
    and what that changes in X w is given to the others by alternating projections where they have room.
    In the directions kept, z is taken to solve X~ z = X w, which corrects the mismatch of the networks.

    Data with more samples than inputs have no kernel. Then the leading `options.directions` eigenvectors
    of X~^T X~ are kept, see `leading_directions` for the default. On the layers of the benchmark
    networks that makes it about as good as GPFQ, at a much higher price.

    Guarantee: the idea is that of 2209.03487, the statement and its derivation are ours, and the cells
    above are not the paper's. If the data have r directions and the range holds the weights, more than r
    free columns have a kernel to walk along, so at most r weights of a neuron are left to be rounded, each
    by at most half a step of step * a. On generic data r such errors add up to sqrt(r) step a |X_t| / 2 at
    most, X w to |w| |X_t| with |w| ~ sqrt(N): the relative error decays like sqrt(r / N). For full-rank data
    there is no guarantee.
    """
    statistics, weights = problem.products, problem.weights
    spaces = [
        leading_directions(gram, statistics.samples, problem.options.directions) for gram in statistics.gram
    ]
    mismatch = statistics.targets(statistics.cross, weights) - statistics.gram @ weights
    wanted = weights + np.stack(
        [space.pseudo_inverse @ part for space, part in zip(spaces, mismatch, strict=True)]
    )

    def solve(scales: FloatArray) -> FloatArray:
        levels = []
        for space, units in zip(spaces, in_scale_units(wanted, scales), strict=True):
            start = fit_into_range(space.rows, units, problem.alphabet)
            low, high = cells(start, problem.alphabet)
            levels.append(problem.alphabet.nearest(saturate(space.rows, start, low, high)))
        return np.stack(levels)

    return solve


@dataclass(frozen=True)
class Directions:
    """Leading directions of the rows of X~.

    Attributes:
        rows: orthonormal, (r, N).
        energy: |X~ v|^2 of each, descending, (r,).
    """

    rows: FloatArray
    energy: FloatArray

    @property
    def pseudo_inverse(self) -> FloatArray:
        """Of the Gram matrix in these directions, (N, N)."""
        return np.asarray((self.rows.T / self.energy) @ self.rows)


def leading_directions(gram: FloatArray, samples: int, directions: int | None = None) -> Directions:
    """The strongest eigenvectors of a Gram matrix (N, N).

    Args:
        gram: X~^T X~.
        samples: rows of X~; it has no more directions than these.
        directions: how many to keep if there are as many. None: all that are not negligible if they are at
            most a quarter of the inputs; otherwise those with nine tenths of the energy, at most a quarter of
            the inputs and at most 128.
    """
    energy, vectors = np.linalg.eigh(gram)
    energy, vectors = energy[::-1], vectors[:, ::-1]
    rank = min(int(np.count_nonzero(energy > _NEGLIGIBLE * max(energy[0], 0))), samples)
    limit = -(-len(gram) // _INPUTS_PER_DIRECTION) if directions is None else directions
    if directions is None and rank > limit:
        enough = int(np.searchsorted(np.cumsum(energy), _ENERGY * energy.sum())) + 1
        limit = min(limit, enough, _MOST_DIRECTIONS)
    kept = min(rank, limit)
    return Directions(np.ascontiguousarray(vectors[:, :kept].T), energy[:kept])


def fit_into_range(rows: FloatArray, units: FloatArray, alphabet: Alphabet) -> FloatArray:
    """Weights in the range of the alphabet with nearly the same products with the rows.

    Args:
        rows: orthonormal, (r, N).
        units: weights in units of the scale, (N, n).
        alphabet: its lowest and highest level are the range.
    """
    low, high = alphabet.values[0], alphabet.values[-1]
    fitted = np.clip(units, low, high)
    for _ in range(_PROJECTIONS):
        missing = rows @ (units - fitted)
        if not np.any(np.abs(missing) > _STILL):
            break
        fitted = np.clip(fitted + rows.T @ missing, low, high)
    return np.asarray(fitted)


def cells(units: FloatArray, alphabet: Alphabet) -> tuple[FloatArray, FloatArray]:
    """The levels below and above each value in the range of the alphabet; the same for a level."""
    codes = (units - alphabet.offset) / alphabet.step
    low, high = np.floor(codes) * alphabet.step, np.ceil(codes) * alphabet.step
    return low + alphabet.offset, high + alphabet.offset


def saturate(rows: FloatArray, start: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Move every neuron along the kernel of the rows until all but r of its weights are at an end.

    The free weights are the basis of a simplex tableau: moving another weight by s moves them by -s y,
    y = B^-1 (its column), which leaves the products with the rows as they are. The weight enters, in the
    direction in which some weight saturates sooner; if that is a basic one, they change places, a
    rank-one elimination of the tableau. A block of columns enters between two factorizations of B.

    Args:
        rows: data, of full rank r, (r, N).
        start: weights, (N, n), between low and high.
        low: lower ends, the same shape.
        high: upper ends.

    Returns:
        Weights (N, n) with the same products with the rows.
    """
    directions, inputs = rows.shape
    if directions == 0:
        return np.where(start - low < high - start, low, high)
    _, _, order = qr(rows, mode="economic", pivoting=True, check_finite=False)
    block = max(_BLOCK, directions // _DIRECTIONS_PER_COLUMN)
    together = max(1, _TABLEAU // (directions * block))
    parts = np.array_split(np.arange(start.shape[1]), -(-start.shape[1] // together))
    moved = np.empty_like(start)
    for part in parts:
        walk = _Walk(rows, start[:, part].T.copy(), low[:, part].T, high[:, part].T, order[:directions])
        for first in range(directions, inputs, block):
            walk.enter(order[first : first + block])
        moved[:, part] = walk.finish()
    return moved


class _Walk:
    """Neurons on their way; every array has the neuron first.

    Args:
        rows: (r, N).
        weights: (n, N); those in the basis are kept in `free`.
        low: (n, N).
        high: (n, N).
        basis: r independent columns.
    """

    def __init__(
        self, rows: FloatArray, weights: FloatArray, low: FloatArray, high: FloatArray, basis: IntArray
    ) -> None:
        self.rows, self.weights, self.low, self.high = rows, weights, low, high
        self.kept = weights @ rows.T
        self.basis = np.tile(basis, (len(weights), 1))
        self.free, self.free_low, self.free_high = weights[:, basis], low[:, basis], high[:, basis]

    def enter(self, columns: IntArray) -> None:
        """Let a block of columns enter one after the other."""
        # Row p is column p of the tableau when the block began. The exchanges since then made of it
        # tableau[:, p] - sum_k pivot_rows[:, k, p] * multipliers[:, k].
        tableau = self._factorize(columns)
        multipliers = np.zeros_like(tableau)
        pivot_rows = np.zeros((len(tableau), len(columns), len(columns)))
        for place, column in enumerate(columns):
            change = pivot_rows[:, None, :place, place] @ multipliers[:, :place]
            direction = tableau[:, place] - change[:, 0]
            who, leaving = self._step(direction, int(column))
            pivot_row = tableau[who, :, leaving]
            pivot_row -= (multipliers[who, :place, leaving][:, None] @ pivot_rows[who, :place])[:, 0]
            pivot_rows[who, place] = pivot_row / direction[who, leaving, None]
            multipliers[who, place] = direction[who]
            multipliers[who, place, leaving] -= 1

    def finish(self) -> FloatArray:
        """The weights (N, n)."""
        self._factorize(self.basis[0, :0])
        self.weights[np.arange(len(self.weights))[:, None], self.basis] = self.free
        return self.weights.T

    def _factorize(self, columns: IntArray) -> FloatArray:
        """B^-1 times columns of the rows, (n, columns, r); the free weights are solved for afresh."""
        self.weights[np.arange(len(self.weights))[:, None], self.basis] = 0
        missing = self.kept - self.weights @ self.rows.T
        entering = np.broadcast_to(self.rows[:, columns], (len(missing), len(self.rows), len(columns)))
        basic_columns = self.rows.T[self.basis].transpose(0, 2, 1)
        solved = np.linalg.solve(basic_columns, np.concatenate([entering, missing[:, :, None]], axis=2))
        self.free = np.clip(solved[:, :, -1], self.free_low, self.free_high)
        return np.ascontiguousarray(solved[:, :, :-1].transpose(0, 2, 1))

    def _step(self, direction: FloatArray, column: int) -> tuple[IntArray, IntArray]:
        """Move the entering weight until it saturates, or a free one does, whose place it then takes.

        Args:
            direction: what a unit of the entering weight takes from the free ones, (n, r).
            column: of the entering weight.

        Returns:
            The neurons whose basis changed, and for each the place in the basis.
        """
        still = np.abs(direction) <= _STILL
        divisor = np.where(still, 1.0, direction)
        to_low, to_high = (self.free - self.free_low) / divisor, (self.free - self.free_high) / divisor
        rises = np.where(still, np.inf, np.maximum(to_low, to_high))
        sinks = np.where(still, np.inf, -np.minimum(to_low, to_high))
        weight, low, high = self.weights[:, column], self.low[:, column], self.high[:, column]
        limit_up, limit_down = rises.min(axis=1), sinks.min(axis=1)
        up = np.minimum(limit_up, high - weight) <= np.minimum(limit_down, weight - low)
        limit, room = np.where(up, limit_up, limit_down), np.where(up, high - weight, weight - low)
        step = np.where(up, 1, -1) * np.minimum(limit, room)
        self.free -= step[:, None] * direction
        self.weights[:, column] = np.where(limit < room, weight + step, np.where(up, high, low))

        who = np.flatnonzero(limit < room)
        leaving = np.where(up[who, None], rises[who], sinks[who]).argmin(axis=1)
        lowered = (direction[who, leaving] > 0) == up[who]
        ends = np.where(lowered, self.free_low[who, leaving], self.free_high[who, leaving])
        self.weights[who, self.basis[who, leaving]] = ends
        self.basis[who, leaving] = column
        self.free[who, leaving] = self.weights[who, column]
        self.free_low[who, leaving], self.free_high[who, leaving] = low[who], high[who]
        return who, leaving

"""The scale of the alphabet, searched on the layer objective |X W - X~ Q|^2.

A scale that minimises the weight error is far too small at one or two bits; choosing it on the
output error is the cheapest large gain there is, and with the Gram matrices at hand the whole
solver can be run for every candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.quantizers.registry import Solver
from deployq.quantizers.statistics import LayerStatistics

#: Candidate scales of the search.
_CANDIDATES = 16

#: Fractions of the largest weight tried as largest level when the weight error is minimised: dense
#: near 1 for many levels, down to 0.02 for few levels and outlying weights.
_FRACTIONS = 0.02 ** np.linspace(0, 1, 28) ** 2

#: Errors that differ by less than this part of |X W|^2 differ by rounding only.
_ROUNDING = 1e-12

#: Scale of a neuron without weights as part of the largest scale of the layer.
_NEGLIGIBLE = 1e-9

#: Elements of the level array (groups, N, K, C) a solver gets in one call, which bounds the memory.
_ELEMENTS_PER_CALL = 2**23


@dataclass(frozen=True)
class Objective:
    """The error |X w - a X~ q|^2 = energy - 2 a <q, target> + a^2 <q, gram q> of neurons.

    Attributes:
        gram: X~^T X~, (groups, N, N).
        target: X~^T X W, (groups, N, C).
        energy: |X w|^2, (groups, C).
    """

    gram: FloatArray
    target: FloatArray
    energy: FloatArray

    @staticmethod
    def of(statistics: LayerStatistics, weights: FloatArray) -> Objective:
        """The objective of real weights (groups, N, C)."""
        energy = np.einsum("gnc,gnc->gc", weights, statistics.analog_gram @ weights)
        return Objective(statistics.gram, statistics.cross @ weights, np.maximum(energy, 0))

    def terms(self, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """<q, target> and <q, gram q> of levels (groups, N, K, C), each (groups, K, C)."""
        flat = levels.reshape(*levels.shape[:2], -1)
        quadratic = np.einsum("gnk,gnk->gk", flat, self.gram @ flat)
        linear = np.einsum("gnkc,gnc->gkc", levels, self.target)
        return linear, np.maximum(quadratic, 0).reshape(linear.shape)

    def error(self, levels: FloatArray, scales: FloatArray) -> FloatArray:
        """Errors (groups, C) of levels (groups, N, C) at scales (groups, C)."""
        linear, quadratic = (term[:, 0] for term in self.terms(levels[:, :, None, :]))
        return np.maximum(self.energy - 2 * scales * linear + scales**2 * quadratic, 0)


def scale_factors(alphabet: Alphabet) -> FloatArray:
    """Candidate scales as multiples of the scale of least weight error, ascending; 1 is among them.

    The fewer levels, the further the best scale lies above the one of least weight error, up to
    four times for the binary alphabet; with many levels both nearly agree.
    """
    spread = 6.0 / alphabet.levels
    below, above = 1 / (1 + min(spread, 1.0)), 1 + spread
    count = _CANDIDATES // 4
    return np.concatenate(
        [np.geomspace(below, 1, count, endpoint=False), np.geomspace(1, above, _CANDIDATES - count)]
    )


def weight_error_scale(weights: FloatArray, alphabet: Alphabet, granularity: str) -> FloatArray:
    """Scales of least |W - a Q(W / a)|^2, up to the resolution of a grid.

    Args:
        weights: (groups, N, C).
        alphabet: levels.
        granularity: "channel", or "layer" for one scale.

    Returns:
        Positive scales (groups, C); negligible ones for neurons without weights.
    """
    largest = np.abs(weights).max(axis=1)
    floor = _NEGLIGIBLE * (largest.max() or 1.0)
    if granularity == "layer":
        largest = np.full_like(largest, largest.max())
    widest = np.maximum(largest, floor) / alphabet.largest
    best: FloatArray = widest
    best_error = np.full_like(widest, np.inf)
    for fraction in _FRACTIONS:
        scales = fraction * widest
        levels = alphabet.nearest(weights / scales[:, None, :])
        linear = np.einsum("gnc,gnc->gc", levels, weights)
        quadratic = np.einsum("gnc,gnc->gc", levels, levels)
        scales, gain = _least_squares(linear, quadratic, scales, granularity)
        better = -gain < best_error
        best, best_error = np.where(better, scales, best), np.where(better, -gain, best_error)
    return best


def search_scale(
    solver: Solver,
    statistics: LayerStatistics,
    weights: FloatArray,
    alphabet: Alphabet,
    granularity: str,
) -> tuple[FloatArray, FloatArray]:
    """Run a solver on every candidate scale and keep, per channel or layer, the best result.

    The scale of a result is the least-squares one for its levels, which never increases the error.
    Of results that are equally good the smallest candidate wins: it uses the largest levels.

    Args:
        solver: a quantizer.
        statistics: of the layer.
        weights: (groups, N, C).
        alphabet: levels.
        granularity: "channel", or "layer" for one scale.

    Returns:
        Levels (groups, N, C) and positive scales (groups, C).
    """
    groups, inputs, channels = weights.shape
    statistics = _with_directions(statistics)
    objective = Objective.of(statistics, weights)
    start = weight_error_scale(weights, alphabet, granularity)
    candidates = start[:, None, :] * scale_factors(alphabet)[:, None]
    calls = -(-weights.size * candidates.shape[1] // _ELEMENTS_PER_CALL)
    results = []
    for part in np.array_split(candidates, min(calls, candidates.shape[1]), axis=1):
        levels = solver(statistics, weights, alphabet, part.reshape(groups, -1))
        levels = levels.reshape(groups, inputs, -1, channels)
        scales, gains = _least_squares(*objective.terms(levels), part, granularity)
        results.append((levels.astype(np.int16), scales, gains))
    levels = np.concatenate([result[0] for result in results], axis=2)
    scales = np.concatenate([result[1] for result in results], axis=1)
    gains = np.concatenate([result[2] for result in results], axis=1)
    energy = objective.energy if granularity == "channel" else objective.energy.sum()
    tolerance = _ROUNDING * np.broadcast_to(energy, (groups, channels))
    best = np.argmax(gains >= gains.max(axis=1, keepdims=True) - tolerance[:, None, :], axis=1)[:, None, :]
    chosen = np.take_along_axis(levels, best[:, None], axis=2)[:, :, 0]
    return chosen.astype(np.float64), np.take_along_axis(scales, best, axis=1)[:, 0]


def _least_squares(
    linear: FloatArray, quadratic: FloatArray, scales: FloatArray, granularity: str
) -> tuple[FloatArray, FloatArray]:
    """Scales that minimise a^2 quadratic - 2 a linear, and by how much that lowers the error from a = 0.

    Where the minimum is not at a positive scale the given one stays. All arrays are (groups, ..., C);
    with granularity "layer" the terms of all neurons are added and all get the same scale.
    """
    if granularity == "layer":
        linear, quadratic = (
            np.broadcast_to(term.sum(axis=(0, -1), keepdims=True), term.shape) for term in (linear, quadratic)
        )
    usable = (linear > 0) & (quadratic > 0)
    fitted = np.divide(linear, quadratic, out=scales.copy(), where=usable)
    return fitted, 2 * fitted * linear - fitted**2 * quadratic


def _with_directions(statistics: LayerStatistics) -> LayerStatistics:
    """The statistics with a multiple of the identity for groups in which no input varies.

    Their output does not depend on the weights, so any codes do; this makes them those nearest to
    the weights. The multiple is so small that it has no say in a scale shared with other groups.
    """
    empty = np.asarray(statistics.dead.all(axis=1))
    if not empty.any():
        return statistics
    size = 1e-6 * np.trace(statistics.gram[~empty], axis1=1, axis2=2).mean() if not empty.all() else 1.0
    identity = size * np.eye(statistics.gram.shape[1])
    gram, cross, analog = (
        np.where(empty[:, None, None], identity, products)
        for products in (statistics.gram, statistics.cross, statistics.analog_gram)
    )
    return replace(statistics, gram=gram, cross=cross, analog_gram=analog)

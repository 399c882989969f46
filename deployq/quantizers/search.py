"""The scale of the alphabet, searched on the layer objective |X W - X~ Q|^2.

A scale that minimises the weight error is far too small at one or two bits; choosing it on the
output error is the cheapest large gain there is, and with the Gram matrices at hand the whole
solver can be run for every candidate.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.quantizers.objective import Objective
from deployq.quantizers.ordering import prepared
from deployq.quantizers.registry import Problem, Solve, Solver

#: Candidate scales of the first round as multiples of the one of least weight error. The best is
#: often near 1, at one bit at 1.5 to 4, and beyond where neurons of different size share a scale.
_COARSE = 2.0 ** (np.arange(-3, 10) / 3)

#: Candidates of the second round as multiples of the best scale so far.
_FINE = 2.0 ** (np.arange(-3, 4) / 12)

#: Fractions of the largest weight tried as largest level when the weight error is minimised: dense
#: near 1 for many levels, down to 0.02 for few levels and outlying weights.
_FRACTIONS = 0.02 ** np.linspace(0, 1, 28) ** 2

#: Errors that differ by less than this part of |X W|^2 differ by rounding only.
_ROUNDING = 1e-12

#: Size relative to the largest in the layer below which a neuron counts as having no weights or output;
#: also the scale it gets.
_NEGLIGIBLE = 1e-9

#: Elements of the level array (groups, N, K, C) a solver gets in one call, which bounds the memory.
_ELEMENTS_PER_CALL = 2**23


def weight_error_scale(weights: FloatArray, alphabet: Alphabet, granularity: str) -> FloatArray:
    """Scales of least |W - a Q(W / a)|^2, up to the resolution of a grid.

    Args:
        weights: (groups, N, C).
        alphabet: levels.
        granularity: "channel", or "layer" for one scale.

    Returns:
        Positive scales (groups, C); negligible ones for neurons without weights.
    """
    largest = np.abs(weights).max(axis=1, keepdims=True)
    floor = _NEGLIGIBLE * (largest.max() or 1.0)
    importance = None
    if granularity == "layer":
        largest = np.full_like(largest, largest.max())
        importance = np.ones_like(largest[:, 0])
    widest = np.maximum(largest, floor) / alphabet.largest
    best: FloatArray = widest
    best_gain = np.full_like(widest, -np.inf)
    for fraction in _FRACTIONS:
        levels = alphabet.nearest(weights / (fraction * widest))
        linear = np.einsum("gnc,gnc->gc", levels, weights)[:, None]
        quadratic = np.einsum("gnc,gnc->gc", levels, levels)[:, None]
        scales, gain = least_squares(linear, quadratic, fraction * widest, importance)
        better = gain > best_gain
        best, best_gain = np.where(better, scales, best), np.where(better, gain, best_gain)
    return np.asarray(best[:, 0])


def search_scale(
    solver: Solver, problem: Problem, granularity: str, *, fixed: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Run a solver on many candidate scales and keep, per channel or layer, the best result.

    A coarse round about the scale of least weight error is followed by a fine one about the best of
    the first. One scale for the layer minimises the sum of the neurons' relative errors. The scale
    of a result is the least-squares one for its levels, which never increases the error. Of results
    that are equally good the smallest candidate wins: it uses the largest levels.

    Args:
        solver: a quantizer.
        problem: the layer.
        granularity: "channel", or "layer" for one scale.
        fixed: solve at the scale of least weight error alone. For levels without end, since the smallest
            scale would always be the best.

    Returns:
        Levels (groups, N, C) and positive scales (groups, C).
    """
    empty = np.asarray(problem.statistics.dead.all(axis=1))
    # The output of a group in which no input varies does not depend on the weights, so any codes do; this
    # makes them those nearest to the weights.
    problem = replace(problem, statistics=problem.statistics.with_identity(empty))
    solve = prepared(solver, problem)
    objective = problem.statistics.objective(problem.weights)
    inputs = problem.weights.shape[1]
    importance, tolerance = None, _ROUNDING * objective.energy
    if granularity == "layer":
        importance = neuron_importance(np.where(empty[:, None], 0, objective.energy))
        tolerance = np.full_like(tolerance, _ROUNDING * np.sum(importance * objective.energy))

    def best_of(candidates: FloatArray) -> tuple[npt.NDArray[np.int16], FloatArray, FloatArray]:
        """Levels, scales and gain of the best of candidate scales (groups, K, C), ascending in K."""
        levels, scales, gains = _solve(solve, objective, inputs, candidates, importance)
        enough = gains.max(axis=1, keepdims=True) - tolerance[:, None, :]
        best = np.argmax(gains >= enough, axis=1, keepdims=True)
        scales, gains = (np.take_along_axis(array, best, axis=1)[:, 0] for array in (scales, gains))
        return np.take_along_axis(levels, best[:, None], axis=2)[:, :, 0], scales, gains

    start = weight_error_scale(problem.weights, problem.alphabet, granularity)
    if fixed:
        found = solve(start)
        refitted, _ = least_squares(*objective.terms(found[:, :, None]), start[:, None], importance)
        return found, refitted[:, 0]
    levels, scales, gains = best_of(start[:, None, :] * _COARSE[:, None])
    finer_levels, finer_scales, finer_gains = best_of(scales[:, None, :] * _FINE[:, None])
    better = finer_gains > gains + tolerance
    levels = np.where(better[:, None, :], finer_levels, levels)
    return levels.astype(np.float64), np.where(better, finer_scales, scales)


def _solve(
    solve: Solve,
    objective: Objective,
    inputs: int,
    candidates: FloatArray,
    importance: FloatArray | None,
) -> tuple[npt.NDArray[np.int16], FloatArray, FloatArray]:
    """Run a prepared solver for N inputs on candidate scales (groups, K, C).

    Returns:
        Levels (groups, N, K, C), their least-squares scales and the gains of these, (groups, K, C).
    """
    groups, count, channels = candidates.shape
    calls = -(-inputs * candidates.size // _ELEMENTS_PER_CALL)
    all_levels, all_scales, all_gains = [], [], []
    for part in np.array_split(candidates, min(calls, count), axis=1):
        levels = solve(part.reshape(groups, -1)).reshape(groups, inputs, -1, channels)
        scales, gains = least_squares(*objective.terms(levels), part, importance)
        all_levels.append(levels.astype(np.int16))
        all_scales.append(scales)
        all_gains.append(gains)
    return (
        np.concatenate(all_levels, axis=2),
        np.concatenate(all_scales, axis=1),
        np.concatenate(all_gains, axis=1),
    )


def least_squares(
    linear: FloatArray, quadratic: FloatArray, scales: FloatArray, importance: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Scales that minimise a^2 quadratic - 2 a linear, and by how much that lowers the error from a = 0.

    Where the minimum is not at a positive scale the given one stays.

    Args:
        linear: (groups, K, C).
        quadratic: (groups, K, C).
        scales: (groups, K, C).
        importance: None for a scale per neuron; weights (groups, C) of the neurons that share one.

    Returns:
        Scales and gains, (groups, K, C); all neurons have the same if they share a scale.
    """
    if importance is not None:
        linear, quadratic = (
            np.broadcast_to(np.einsum("gkc,gc->k", term, importance)[:, None], term.shape)
            for term in (linear, quadratic)
        )
    usable = (linear > 0) & (quadratic > 0)
    fitted = np.divide(linear, quadratic, out=scales.copy(), where=usable)
    return fitted, 2 * fitted * linear - fitted**2 * quadratic


def neuron_importance(energy: FloatArray) -> FloatArray:
    """What the error of each neuron counts in the choice of a shared scale: its relative error.

    A layer into which a BatchNormalization was folded has neurons of very different size, which the
    next layer evens out; in the plain sum the largest would decide alone (binary MNIST MLP with one
    scale per layer: 86 % by the plain sum, 98 % by relative errors). Neurons without output do not
    count.
    """
    counts = energy > _NEGLIGIBLE * energy.max()
    if not counts.any():
        return np.ones_like(energy)
    return np.divide(1.0, energy, out=np.zeros_like(energy), where=counts)

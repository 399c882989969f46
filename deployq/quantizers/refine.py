"""Refinement of any quantizer's result: coordinate descent on |X W - X~ Q|^2 with refitted scales."""

from __future__ import annotations

import numpy as np

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.quantizers.objective import GramObjective
from deployq.quantizers.registry import Problem
from deployq.quantizers.search import least_squares, neuron_importance

#: Sweeps over all inputs between two refits of the scales.
_SWEEPS = 3

#: Inputs between two exact evaluations of the residual, which are matrix products.
_BLOCK = 64


def refine_levels(
    problem: Problem, levels: FloatArray, scales: FloatArray, granularity: str, rounds: int
) -> tuple[FloatArray, FloatArray]:
    """Alternate sweeps of coordinate descent over the levels with least-squares scales.

    Each step sets one level of a neuron to the best one with all others fixed, so the error of no
    neuron grows (with one scale per layer: the sum of relative errors does not). O(N^2 C) per sweep.
    Stops early where nothing changes any more.

    Args:
        problem: the layer.
        levels: (groups, N, C).
        scales: (groups, C), positive.
        granularity: "channel", or "layer" for one scale.
        rounds: at most this many times three sweeps and a refit.

    Returns:
        Levels (groups, N, C) and scales (groups, C).
    """
    objective = problem.products.objective(problem.weights)
    importance = None
    if granularity == "layer":
        empty = np.asarray(problem.statistics.dead.all(axis=1))
        importance = neuron_importance(np.where(empty[:, None], 0, objective.energy))
    levels = levels.copy()
    for _ in range(rounds):
        changed = sum(_sweep(objective, problem.alphabet, levels, scales) for _ in range(_SWEEPS))
        terms = objective.terms(levels[:, :, None, :])
        fitted, _ = least_squares(*terms, scales[:, None, :], importance)
        scales = fitted[:, 0]
        if not changed:
            break
    return levels, scales


def _sweep(objective: GramObjective, alphabet: Alphabet, levels: FloatArray, scales: FloatArray) -> int:
    """One pass over all inputs; changes the levels (groups, N, C) in place and counts the changes."""
    inputs = levels.shape[1]
    energy = np.diagonal(objective.gram, axis1=1, axis2=2)
    inverse = np.divide(1.0, energy, out=np.zeros_like(energy), where=energy > 0)[:, :, None]
    changes = 0
    for start in range(0, inputs, _BLOCK):
        block = slice(start, min(start + _BLOCK, inputs))
        local = objective.gram[:, block, block]
        residual = objective.target[:, block] / scales[:, None, :] - objective.gram[:, block] @ levels
        for t in range(block.stop - start):
            old = levels[:, start + t]
            best = alphabet.nearest(old + residual[:, t] * inverse[:, start + t])
            step = np.where(inverse[:, start + t] > 0, best - old, 0.0)
            if step.any():
                changes += int(np.count_nonzero(step))
                residual -= local[:, :, t, None] * step[:, None, :]
                levels[:, start + t] = old + step
    return changes

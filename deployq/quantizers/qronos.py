"""Qronos (arXiv 2505.11695) in triangular form."""

from __future__ import annotations

from functools import partial

import numpy as np

from deployq.arithmetic import FloatArray
from deployq.quantizers.recursion import Recursion
from deployq.quantizers.registry import Note, Problem, Solve, quantizer
from deployq.quantizers.triangular import factor, without_dead

#: Damping as part of the largest eigenvalue.
_DAMPING = 1e-6


@quantizer("qronos")
def prepare(problem: Problem) -> Solve:
    """Correct the mismatch of the two networks once, then diffuse rounding errors; O(N^3 + N^2 K C).

    The first input is rounded against the error X w - X~ q of all; the remaining weights are replaced
    by the least-squares solution that makes up for it and for X != X~; these are rounded as by GPTQ.
    Everything is linear in the first level, hence one recursion (H = X~^T X~, G = X~^T X, damped H on
    the remaining inputs = U D U^T):

        target_1 = (G w - H_1,2.. w_2..) / H_11,    target_2.. = U^T H^-1 (G w)_2..,
        feedback_2..,1 = U^T H^-1 H_2..,1,          feedback_2..,2.. = U^T.

    Guarantee (2505.11695): each step is optimal for |X w - X~ q| over the level and all weights that
    are still real. It follows the samples closely and needs more of them than GPFQ: several times N.
    """
    statistics = problem.products
    outputs = statistics.targets(statistics.cross, problem.weights)
    parts = [
        _one_group(*group, problem.note)
        for group in zip(statistics.gram, outputs, problem.weights, strict=True)
    ]
    recursion = Recursion(
        np.stack([feedback for feedback, _ in parts]), np.stack([goal for _, goal in parts])
    )
    return partial(recursion.run, choose=problem.alphabet.nearest)


def _one_group(
    gram: FloatArray, outputs: FloatArray, weights: FloatArray, note: Note
) -> tuple[FloatArray, FloatArray]:
    """Feedback (N, N) and targets (N, C) of one group; outputs is X~^T X W."""
    full = without_dead(gram)
    dead = np.diagonal(gram) <= 0
    outputs = np.where(dead[:, None], np.diagonal(full)[:, None] * weights, outputs)
    feedback, targets = np.zeros_like(gram), np.empty_like(weights)
    targets[0] = (outputs[0] - full[0, 1:] @ weights[1:]) / full[0, 0]
    if len(gram) > 1:
        largest = float(np.linalg.eigvalsh(full)[-1])
        unit, damping = factor(full[1:, 1:], _DAMPING * largest, note)
        targets[1:] = unit.whitened(outputs[1:] + damping * weights[1:])
        feedback[1:, :1] = unit.whitened(full[1:, :1])
        feedback[1:, 1:] = unit.upper.T
    return feedback, targets

"""GPTQ / OPTQ (arXiv 2210.17323) in triangular form."""

from __future__ import annotations

from functools import partial

import numpy as np

from deployq.quantizers.recursion import Recursion
from deployq.quantizers.registry import Problem, Solve, quantizer
from deployq.quantizers.triangular import factor, without_dead

#: Damping as part of the mean energy of an input, as in the paper.
_DAMPING = 0.01


@quantizer("gptq")
def prepare(problem: Problem) -> Solve:
    """Round one input, move the later weights to where they best make up for it; O(N^3 + N^2 K C).

    With H = X~^T X~ = U D U^T, U unit upper triangular, the update of the paper (rows of the Cholesky
    factor of H^-1) is

        q_t = Q( w_t + sum_{s<t} U_st (w_s - q_s) ),

    the form of LDLQ (arXiv 2307.13304, theorem 6), so that neither an inverse nor weights that
    change are needed. The float network's inputs do not enter.

    Guarantee (2307.13304): the least proxy error <W - Q, H (W - Q)> among all methods with linear feedback
    of earlier errors and rounding to an unbounded alphabet, in the worst and in the average case.
    """
    feedback, targets = [], []
    for gram, weights in zip(problem.products.gram, problem.weights, strict=True):
        full = without_dead(gram)
        unit, _ = factor(full, _DAMPING * float(np.diagonal(full).mean()), problem.note)
        feedback.append(unit.upper.T)
        targets.append(unit.upper.T @ weights)
    recursion = Recursion(np.stack(feedback), np.stack(targets))
    return partial(recursion.run, choose=problem.alphabet.nearest)

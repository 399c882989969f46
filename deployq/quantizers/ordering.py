"""The order in which a quantizer decides the inputs of a layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deployq.arithmetic import FloatArray
from deployq.quantizers.registry import Problem, Solve, Solver


def prepared(solver: Solver, problem: Problem) -> Solve:
    """A solver prepared for a problem, in the order its options ask for.

    Whatever the order, weights and levels keep their places.
    """
    if problem.options.order == "natural":
        return solver(problem)
    order = np.argsort(-problem.statistics.energy, axis=1, kind="stable")
    ordered = replace(
        problem,
        statistics=problem.statistics.reordered(order),
        weights=np.take_along_axis(problem.weights, order[:, :, None], axis=1),
    )
    solve = solver(ordered)
    restore = np.argsort(order, axis=1)[:, :, None]

    def solve_in_order(scales: FloatArray) -> FloatArray:
        return np.take_along_axis(solve(scales), restore, axis=1)

    return solve_in_order

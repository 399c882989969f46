"""The order in which a quantizer decides the inputs of a layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deployq.arithmetic import FloatArray
from deployq.quantizers.registry import Problem, Solve, Solver


def prepared(solver: Solver, problem: Problem) -> Solve:
    """A solver prepared for a problem, in the order its options ask for.

    Whatever the order, weights and levels keep their places.
    """
    if problem.options.order == "natural":
        return solver(problem)
    energy = np.diagonal(problem.statistics.gram, axis1=1, axis2=2)
    order = np.argsort(-energy, axis=1, kind="stable")
    solve = solver(_reordered(problem, order))
    restore = np.argsort(order, axis=1)[:, :, None]

    def solve_in_order(scales: FloatArray) -> FloatArray:
        return np.take_along_axis(solve(scales), restore, axis=1)

    return solve_in_order


def _reordered(problem: Problem, order: npt.NDArray[np.intp]) -> Problem:
    """The problem with input order[g, t] of group g at place t."""

    def vectors(array: FloatArray) -> FloatArray:
        return np.take_along_axis(array, order, axis=1)

    def matrices(array: FloatArray) -> FloatArray:
        return np.take_along_axis(rows(array), order[:, None, :], axis=2)

    def rows(array: FloatArray) -> FloatArray:
        return np.take_along_axis(array, order[:, :, None], axis=1)

    old = problem.statistics
    residual = old.residual
    if residual is not None:
        residual = replace(residual, quantized=rows(residual.quantized), analog=rows(residual.analog))
    gram = matrices(old.gram)
    cross = gram if old.cross is old.gram else matrices(old.cross)
    statistics = replace(
        old,
        gram=gram,
        cross=cross,
        analog_gram=gram if old.analog_gram is old.gram else matrices(old.analog_gram),
        mean_quantized=vectors(old.mean_quantized),
        mean_analog=vectors(old.mean_analog),
        residual=residual,
    )
    return replace(problem, statistics=statistics, weights=rows(problem.weights))

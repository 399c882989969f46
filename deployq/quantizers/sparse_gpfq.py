"""Sparse greedy path-following quantization (arXiv 2201.11113, the section on sparse quantizers)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.errors import UsageError
from deployq.quantizers.gpfq import path_following
from deployq.quantizers.registry import Problem, Solve, Traits, quantizer


@quantizer("sparse-gpfq", Traits(on_samples=True))
def prepare(problem: Problem) -> Solve:
    """GPFQ with a quantizer that prefers the level zero; O(N^2 K C), or O(m N K C) on samples.

    With lambda = `options.threshold_size` in units of the scale, and v the argument of the quantizer:

        soft:  Q(v - lambda) for v > lambda, Q(v + lambda) for v < -lambda, else 0;
        hard:  Q(v) for |v| > lambda, else 0.

    Soft thresholding draws all levels towards zero, hard thresholding only skips small ones: below
    half a step it changes nothing, and it leaves the levels up to lambda unused. The paper gives the hard
    quantizer an alphabet with a gap of width lambda about zero; deployq's levels are equispaced.
    The error of a skipped weight stays on the path, and later weights make up for it.

    Guarantee: 2201.11113 treats the sparse quantizers, too, with constants that we do not quote. What
    holds here is derived in a line. With X~ = X, u_t = P u_{t-1} + (v - Q(v)) a X_t, where P projects
    perpendicularly to X_t, so

        |u_t|^2 <= |P u_{t-1}|^2 + (delta a |X_t|)^2,    delta = lambda + 1/2 soft, max(lambda, 1/2) hard,

    while nothing is clipped. On generic rows in R^m, |P u|^2 is (1 - 1/m) |u|^2 on average, so |u|^2 settles
    at m (delta a |X_t|)^2 while |X w|^2 grows with N: the relative square error decays like delta^2 m / N,
    for GPFQ as for its sparse forms, which pay with delta.

    Raises:
        UsageError: the alphabet has no level zero.
    """
    if 0 not in problem.alphabet.values:
        raise UsageError(
            f"sparse-gpfq needs the level zero, which the alphabet {problem.alphabet.name} has not",
            where="--method sparse-gpfq",
            hint="--bits ternary, --alphabet midtread-2 (or -3, -4), or --method gpfq",
        )
    chosen = soft_level if problem.options.threshold == "soft" else hard_level
    size = problem.options.threshold_size
    if chosen is hard_level and 0 < size <= problem.alphabet.step / 2:
        problem.note(
            f"a hard threshold of {size:g} changes nothing: up to half a step is rounded to zero anyway"
        )
    choose = partial(chosen, problem.alphabet, size)
    return partial(path_following(problem).run, choose=choose)


def soft_level(alphabet: Alphabet, threshold: float, values: FloatArray) -> FloatArray:
    """The level nearest to each value, in units of the scale, drawn towards zero by the threshold."""
    shrunk = np.copysign(np.maximum(np.abs(values) - threshold, 0), values)
    return np.asarray(alphabet.nearest(shrunk))


def hard_level(alphabet: Alphabet, threshold: float, values: FloatArray) -> FloatArray:
    """The nearest level of values of any shape, in units of the scale; zero up to the threshold."""
    return np.where(np.abs(values) > threshold, alphabet.nearest(values), 0.0)


def sparsity(levels: npt.NDArray[Any]) -> float:
    """Part of the levels that is zero, 0 to 1; 0 of no levels."""
    return float(np.mean(levels == 0)) if levels.size else 0.0

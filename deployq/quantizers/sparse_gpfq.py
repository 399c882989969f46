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
from deployq.quantizers.registry import Problem, Solve, quantizer


@quantizer("sparse-gpfq")
def prepare(problem: Problem) -> Solve:
    """GPFQ with a quantizer that prefers the level zero; O(N^2 K C).

    With lambda = `options.sparsity` in units of the scale (one level), and v the argument of the quantizer:

        soft:  Q(v - lambda) for v > lambda, Q(v + lambda) for v < -lambda, else 0;
        hard:  Q(v) for |v| > lambda, else 0.

    Soft thresholding draws all levels towards zero, hard thresholding only skips small ones: below
    half a step it changes nothing, and it leaves the levels up to lambda unused. The paper gives the hard
    quantizer an alphabet with a gap of width lambda about zero; deployq's levels are equispaced.
    The error of a skipped weight stays on the path, and later weights make up for it.

    Guarantee (2201.11113): for an alphabet that is wide enough the relative square error of a layer on
    generic data decays like log(N) / N as for GPFQ, with a constant that grows with lambda.

    Raises:
        UsageError: the alphabet has no level zero.
    """
    if 0 not in problem.alphabet.values:
        raise UsageError(
            f"sparse-gpfq needs the level zero, which the alphabet {problem.alphabet.name} has not",
            where="--method",
            hint="use ternary, midtread-b or symmetric-b, or the method gpfq",
        )
    chosen = soft_level if problem.options.threshold == "soft" else hard_level
    choose = partial(chosen, problem.alphabet, problem.options.sparsity)
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

"""Memoryless scalar quantization: each weight to its nearest level."""

from __future__ import annotations

import numpy as np

from deployq.arithmetic import FloatArray
from deployq.quantizers.registry import Problem, Solve, in_scale_units, quantizer


@quantizer("msq")
def prepare(problem: Problem) -> Solve:
    """Round to nearest; O(N C), ignores the data. The baseline of arXiv 2010.15979.

    Guarantee: no level of the alphabet is nearer to a weight, so that an error inside the alphabet's range is
    at most half a step. Nothing follows for the layer's output: errors of N inputs add up.
    """

    def solve(scales: FloatArray) -> FloatArray:
        units = in_scale_units(problem.weights, scales)
        return np.asarray(problem.alphabet.nearest(units), dtype=np.float64)

    return solve

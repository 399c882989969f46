"""The recursion behind every sequential quantizer: decide an input, pass its error on to the later ones.

GPFQ, SPFQ, GPTQ and Qronos all have the form

    q_t = Q( target_t / a - sum_{s<t} feedback_ts q_s ),    t = 1 .. N,

with levels q in units of the scale a; they differ in the two matrices and in Q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deployq.arithmetic import FloatArray
from deployq.quantizers.registry import in_scale_units

#: Inputs decided one by one; the effect of all earlier ones on such a block is one matrix product.
_BLOCK = 128

#: Values (groups, n) in units of the scale to levels of the same shape.
Choose = Callable[[FloatArray], FloatArray]


class Path(Protocol):
    """A sequential quantizer but for Q."""

    def run(self, scales: FloatArray, choose: Choose) -> FloatArray:
        """Levels (groups, N, K * C) for scales (groups, K * C) and Q = choose."""


@dataclass(frozen=True)
class Recursion:
    """The two matrices of a sequential quantizer.

    Attributes:
        feedback: (groups, N, N); only what stands below the diagonal is used.
        targets: (groups, N, C), real values.
    """

    feedback: FloatArray
    targets: FloatArray

    def run(self, scales: FloatArray, choose: Choose) -> FloatArray:
        """Levels of all neurons and scales at once; O(N^2 K C), nearly all of it matrix products.

        Args:
            scales: (groups, K * C), positive.
            choose: the quantizer Q.

        Returns:
            Levels (groups, N, K * C).
        """
        groups, inputs, _ = self.targets.shape
        levels = np.empty((groups, inputs, scales.shape[1]))
        for start in range(0, inputs, _BLOCK):
            stop = min(start + _BLOCK, inputs)
            block = in_scale_units(self.targets[:, start:stop], scales)
            block -= self.feedback[:, start:stop, :start] @ levels[:, :start]
            levels[:, start:stop] = decided(self.feedback[:, start:stop, start:stop], block, choose)
        return levels


def decided(feedback: FloatArray, goals: FloatArray, choose: Choose) -> FloatArray:
    """The levels of a few inputs, one after the other.

    Args:
        feedback: (groups, n, n); only what stands below the diagonal is used.
        goals: targets in units of the scale, with what earlier inputs left, (groups, n, K * C).
        choose: the quantizer Q.

    Returns:
        Levels (groups, n, K * C).
    """
    levels = np.empty_like(goals)
    for t in range(goals.shape[1]):
        path = feedback[:, t, None, :t] @ levels[:, :t]
        levels[:, t] = choose(goals[:, t] - path[:, 0])
    return levels

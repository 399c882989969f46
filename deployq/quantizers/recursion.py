"""The recursion behind every sequential quantizer: decide an input, pass its error on to the later ones.

GPFQ, SPFQ, GPTQ and Qronos all have the form

    q_t = Q( target_t / a - sum_{s<t} feedback_ts q_s ),    t = 1 .. N,

with levels q in units of the scale a; they differ in the two matrices and in Q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deployq.arithmetic import FloatArray
from deployq.quantizers.registry import in_scale_units

#: Inputs decided one by one; the effect of all earlier ones on such a block is one matrix product.
_BLOCK = 128

#: Values (groups, n) in units of the scale to levels of the same shape.
Choose = Callable[[FloatArray], FloatArray]


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
            for t in range(start, stop):
                path = self.feedback[:, t, None, start:t] @ levels[:, start:t]
                levels[:, t] = choose(block[:, t - start] - path[:, 0])
        return levels

"""Greedy path-following quantization (arXiv 2010.15979, 2201.11113) in blocked Gram form.

For one neuron w with inputs X_t (float network) and X~_t (quantized network), t = 1 .. N, GPFQ runs

    q_t = Q( <X~_t, u_{t-1} + w_t X_t> / |X~_t|^2 ),   u_t = u_{t-1} + w_t X_t - q_t X~_t,

so that the error u_N = X w - X~ q stays small. Only inner products of columns enter:

    <X~_t, u_{t-1} + w_t X_t> = sum_{s<=t} (X~^T X)_{ts} w_s - sum_{s<t} (X~^T X~)_{ts} q_s,

hence the codes are those of the recursion on the samples, at a cost that does not depend on their
number.
"""

from __future__ import annotations

import numpy as np

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.quantizers.registry import in_scale_units, quantizer
from deployq.quantizers.statistics import LayerStatistics

#: Inputs decided one by one; the effect of all earlier ones on such a block is one matrix product.
_BLOCK = 128


@quantizer("gpfq")
def solve(
    statistics: LayerStatistics, weights: FloatArray, alphabet: Alphabet, scales: FloatArray
) -> FloatArray:
    """The greedy recursion for all neurons and scales at once; O(N^2 K C), nearly all of it matrix products.

    Guarantee (2201.11113): with an alphabet that is wide enough the relative square error of a
    layer on generic data decays like log(N) / N in the number of inputs N. A dead input, for which
    the recursion divides by zero, has no effect on the output; its weight goes to the nearest level.

    Args:
        statistics: of the layer; centred or not.
        weights: (groups, N, C).
        alphabet: levels.
        scales: (groups, K * C), positive.

    Returns:
        Levels (groups, N, K * C).
    """
    # Row t of both matrices is divided by |X~_t|^2, and everything is in units of the scale, so that
    # one step of the recursion is one product and one rounding.
    dead = statistics.dead[:, :, None]
    norms = np.where(dead, 1.0, np.diagonal(statistics.gram, axis1=1, axis2=2)[:, :, None])
    feedback = np.where(dead, 0.0, statistics.gram / norms)
    targets = np.where(dead, weights, np.tril(statistics.cross) @ weights / norms)
    groups, inputs, _ = weights.shape
    levels = np.empty((groups, inputs, scales.shape[1]))
    for start in range(0, inputs, _BLOCK):
        stop = min(start + _BLOCK, inputs)
        block = in_scale_units(targets[:, start:stop], scales)
        block -= feedback[:, start:stop, :start] @ levels[:, :start]
        for t in range(start, stop):
            path = feedback[:, t, None, start:t] @ levels[:, start:t]
            levels[:, t] = alphabet.nearest(block[:, t - start] - path[:, 0])
    return levels

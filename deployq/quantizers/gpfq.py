"""Greedy path-following quantization (arXiv 2010.15979, 2201.11113) in blocked Gram form.

For one neuron w with inputs X_t (float network) and X~_t (quantized network), t = 1 .. N, GPFQ runs

    q_t = Q( <X~_t, u_{t-1} + w_t X_t> / |X~_t|^2 ),   u_t = u_{t-1} + w_t X_t - q_t X~_t,

so that the error u_N = X w - X~ q stays small. Only inner products of columns enter:

    <X~_t, u_{t-1} + w_t X_t> = sum_{s<=t} (X~^T X)_{ts} w_s - sum_{s<t} (X~^T X~)_{ts} q_s,

hence the codes are those of the recursion on the samples, at a cost that does not depend on their
number.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from deployq.quantizers.recursion import Path, Recursion
from deployq.quantizers.registry import Problem, Solve, Traits, quantizer
from deployq.quantizers.sample_form import SamplePath
from deployq.quantizers.samples import SampleStatistics


@quantizer("gpfq", Traits(on_samples=True))
def prepare(problem: Problem) -> Solve:
    """The greedy recursion for all neurons and scales at once, nearly all of it matrix products.

    O(N^2 K C), or O(m N K C) on m < N samples, see `deployq.quantizers.sample_form`.

    Guarantee (2201.11113): with an alphabet that is wide enough the relative square error of a
    layer on generic data decays like log(N) / N in the number of inputs N.
    """
    return partial(path_following(problem).run, choose=problem.alphabet.nearest)


def path_following(problem: Problem) -> Path:
    """The recursion of GPFQ: row t of both matrices is divided by |X~_t|^2.

    A dead input, for which that divides by zero, has no effect on the output; its target is its weight.
    """
    if isinstance(problem.statistics, SampleStatistics):
        return SamplePath(problem.statistics.quantized, problem.statistics.analog, problem.weights)
    statistics, weights = problem.products, problem.weights
    dead = statistics.dead[:, :, None]
    norms = np.where(dead, 1.0, np.diagonal(statistics.gram, axis1=1, axis2=2)[:, :, None])
    feedback = np.where(dead, 0.0, statistics.gram / norms)
    targets = np.where(dead, weights, statistics.targets(np.tril(statistics.cross), weights) / norms)
    return Recursion(feedback, targets)

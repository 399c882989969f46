"""Stochastic path-following quantization (arXiv 2309.10975)."""

from __future__ import annotations

import math

import numpy as np

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.quantizers.gpfq import path_following
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.registry import Problem, Solve, Traits, quantizer
from deployq.random_streams import Purpose, stream

#: Probability with which the bound of `bits_of_bound` may fail.
_FAILURE = 0.01


def stochastic_level(
    alphabet: Alphabet, values: FloatArray, draws: FloatArray, *, finite: bool = True
) -> FloatArray:
    """One of the two levels next to each value, the upper one with the probability that makes the mean right.

    Args:
        alphabet: gives step and offset of the levels.
        values: any shape, in units of the scale.
        draws: the same shape, uniform in [0, 1).
        finite: clip to the levels there are; otherwise the progression goes on without end.
    """
    codes = np.floor((values - alphabet.offset) / alphabet.step + draws)
    if finite:
        np.clip(codes, 0, alphabet.levels - 1, out=codes)
    return np.asarray(codes * alphabet.step + alphabet.offset)


def bits_of_bound(problem: Problem, scales: FloatArray) -> float:
    """Bits per weight with which, by the paper's bound, no value of the recursion is clipped.

    For X = X~ the argument of the quantizer is w_t + <X~_t, u_{t-1}> / |X~_t|^2, where the second term
    is dominated by a Gaussian of standard deviation sqrt(pi / 2) step a max|X~| / |X~_t|. The union
    over all N C arguments stays, with probability 99 %, below

        |w|_inf + step a sqrt(pi log(2 N C / 0.01)) max_s |X~_s| / min_t |X~_t|,

    which needs of the order of log log(N C) bits. An information for the user, and pessimistic: the
    data of trained networks need far fewer.

    Args:
        problem: the layer; dead inputs do not count.
        scales: (groups, C), positive.

    Returns:
        Bits, not rounded, of the neuron that needs most.
    """
    statistics, weights = problem.statistics, problem.weights
    groups, inputs, channels = weights.shape
    norms = np.sqrt(np.maximum(statistics.energy, 0))
    smallest = np.where(statistics.dead, np.inf, norms).min(axis=1)
    spread = np.where(np.isfinite(smallest), norms.max(axis=1) / smallest, 1.0)[:, None]
    steps = np.abs(weights).max(axis=1) / (problem.alphabet.step * scales)
    reach = steps + spread * math.sqrt(math.pi * math.log(2 * groups * inputs * channels / _FAILURE))
    return float(np.log2(2 * reach + 1).max())


def _remark(problem: Problem, levels: FloatArray, scales: FloatArray) -> str:
    needed = bits_of_bound(problem, scales)
    if not _unbounded(problem.options):
        return f"by the bound of arXiv 2309.10975, {needed:.1f} bits keep SPFQ within its alphabet"
    return (
        f"SPFQ without clipping took {problem.alphabet.bits} bits, levels from {levels.min():.0f} to "
        f"{levels.max():.0f}; by the bound of arXiv 2309.10975, {needed:.1f} bits suffice"
    )


def _unbounded(options: SolverOptions) -> bool:
    return options.spfq_alphabet == "infinite"


@quantizer("spfq", Traits(_remark, on_samples=True, unbounded=_unbounded))
def prepare(problem: Problem) -> Solve:
    """GPFQ with a rounding to one of the two neighbouring levels that is right on average.

    O(N^2 K C), or O(m N K C) on samples.

    The recursion is the one on both networks' inputs at once, as in the authors' code. What leaves
    the alphabet is clipped unless `options.spfq_alphabet` is "infinite". A neuron gets the same draws
    with every scale.

    Guarantee (2309.10975): while no value is clipped, every error coordinate is dominated in the
    convex order by a Gaussian of variance pi / 2 * (step a)^2 max_t |X~_t|^2, for any data, and the
    relative square error on Gaussian data decays linearly in N; see `bits_of_bound`.
    """
    recursion, finite = path_following(problem), not _unbounded(problem.options)

    def solve(scales: FloatArray) -> FloatArray:
        generator = stream(Purpose.STOCHASTIC_ROUNDING, *problem.options.seed)
        groups, _, channels = problem.weights.shape
        repeats = (1, scales.shape[1] // channels)

        def choose(values: FloatArray) -> FloatArray:
            draws = np.tile(generator.random((groups, channels)), repeats)
            return stochastic_level(problem.alphabet, values, draws, finite=finite)

        return recursion.run(scales, choose)

    return solve

"""Quantize one layer: scale search, solver, exact bias correction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.errors import ModelError, UsageError
from deployq.quantizers.inputs import InputStatistics
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.refine import refine_levels
from deployq.quantizers.registry import Note, Problem, silent, traits_of
from deployq.quantizers.registry import method as find_method
from deployq.quantizers.search import search_scale
from deployq.quantizers.widening import widened

GRANULARITIES = ("channel", "layer")


@dataclass(frozen=True)
class LayerSolution:
    """Quantized weights of a layer.

    Attributes:
        levels: values of the alphabet, (out, N).
        scales: positive, (out,); weight = scale * level. Negligibly small for a channel whose
            weights are all zero.
        bias: (out,), corrected so that the mean output over the samples is unchanged.
        alphabet: of the levels: the one asked for, unless the method went beyond it.
        relative_error: |X W - X~ Q| / |X W| over the layer, on the given statistics; 0 or 1 where
            the denominator is zero.
    """

    levels: npt.NDArray[np.int16]
    scales: FloatArray
    bias: FloatArray
    alphabet: Alphabet
    relative_error: float


def quantize_layer(
    weights: FloatArray,
    bias: FloatArray,
    statistics: InputStatistics,
    alphabet: Alphabet,
    method: str,
    granularity: str,
    options: SolverOptions | None = None,
    refine: int = 0,
    note: Note = silent,
) -> LayerSolution:
    """Quantize the weights of a layer.

    Args:
        weights: (out, N), output channels group by group, N inputs each.
        bias: (out,).
        statistics: centred, with the layer's number of groups.
        alphabet: levels to choose from.
        method: name of a quantizer.
        granularity: what shares a scale: "channel" or "layer".
        options: of the quantizer; the defaults if None.
        refine: rounds of scale refit and coordinate descent after the quantizer.
        note: called with what the user should know.

    Raises:
        UsageError: unknown method or granularity.
        ModelError: weights or statistics are not finite, or levels do not fit into any alphabet.
        ValueError: the shapes do not fit.
    """
    if granularity not in GRANULARITIES:
        raise UsageError(
            f"unknown granularity {granularity!r}", where="--granularity", hint="channel or layer"
        )
    _require_finite(weights, bias, statistics)
    groups, inputs = statistics.mean_quantized.shape
    grouped = np.ascontiguousarray(weights.reshape(groups, -1, inputs).transpose(0, 2, 1), dtype=np.float64)
    options = options or SolverOptions()
    problem = Problem(statistics, grouped, alphabet, options, note)
    if options.ridge:
        problem = replace(problem, statistics=problem.products.with_ridge(options.ridge))
    chosen, levels, scales = _solved(problem, method, granularity, refine)
    means = statistics.mean_analog[:, None, :] @ grouped
    means -= statistics.mean_quantized[:, None, :] @ (levels * scales[:, None, :])
    if statistics.residual is not None:
        means += statistics.residual.mean[:, None, :]
    return LayerSolution(
        levels=levels.transpose(0, 2, 1).reshape(weights.shape).astype(np.int16),
        scales=scales.reshape(-1),
        bias=bias + means.reshape(-1),
        alphabet=chosen,
        relative_error=_relative_error(statistics.without_residual(), grouped, levels, scales),
    )


def _solved(
    problem: Problem, method: str, granularity: str, refine: int
) -> tuple[Alphabet, FloatArray, FloatArray]:
    """The alphabet, levels (groups, N, C) and scales (groups, C) of a problem."""
    traits = traits_of(method)
    unbounded = traits.unbounded(problem.options)
    levels, scales = search_scale(find_method(method), problem, granularity, fixed=unbounded)
    if unbounded:
        problem = replace(problem, alphabet=widened(problem.alphabet, levels))
    if refine:
        levels, scales = refine_levels(problem, levels, scales, granularity, refine)
    if traits.remark is not None:
        problem.note(traits.remark(problem, levels, scales))
    return problem.alphabet, levels, scales


def _relative_error(
    statistics: InputStatistics, weights: FloatArray, levels: FloatArray, scales: FloatArray
) -> float:
    objective = statistics.objective(weights)
    error, energy = objective.error(levels, scales).sum(), objective.energy.sum()
    if energy == 0:
        return float(error > 0)
    return float(np.sqrt(error / energy))


def _require_finite(weights: FloatArray, bias: FloatArray, statistics: InputStatistics) -> None:
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise ModelError("its weights or biases are not finite", hint="check the trained model")
    if not statistics.finite:
        raise ModelError(
            "its inputs are not finite, or overflow when squared",
            why="the calibration data or the float network produce NaN, infinity or huge values",
            hint="check the calibration data and their preprocessing",
        )

"""Quantize one layer: scale search, solver, exact bias correction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.errors import ModelError, UsageError
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.refine import refine_levels
from deployq.quantizers.registry import Note, Problem, remark_of, silent
from deployq.quantizers.registry import method as find_method
from deployq.quantizers.search import LayerObjective, search_scale
from deployq.quantizers.statistics import LayerStatistics

GRANULARITIES = ("channel", "layer")


@dataclass(frozen=True)
class LayerSolution:
    """Quantized weights of a layer.

    Attributes:
        levels: values of the alphabet, (out, N).
        scales: positive, (out,); weight = scale * level. Negligibly small for a channel whose
            weights are all zero.
        bias: (out,), corrected so that the mean output over the samples is unchanged.
        relative_error: |X W - X~ Q| / |X W| over the layer, on the given statistics; 0 or 1 where
            the denominator is zero.
    """

    levels: npt.NDArray[np.int16]
    scales: FloatArray
    bias: FloatArray
    relative_error: float


def quantize_layer(
    weights: FloatArray,
    bias: FloatArray,
    statistics: LayerStatistics,
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
        ModelError: weights or statistics are not finite.
        ValueError: the shapes do not fit.
    """
    if granularity not in GRANULARITIES:
        raise UsageError(
            f"unknown granularity {granularity!r}", where="--granularity", hint="channel or layer"
        )
    solver = find_method(method)
    _require_finite(weights, bias, statistics)
    groups, inputs = statistics.mean_quantized.shape
    grouped = np.ascontiguousarray(weights.reshape(groups, -1, inputs).transpose(0, 2, 1), dtype=np.float64)
    options = options or SolverOptions()
    problem = Problem(statistics.with_ridge(options.ridge), grouped, alphabet, options, note)
    levels, scales = search_scale(solver, problem, granularity)
    if refine:
        levels, scales = refine_levels(problem, levels, scales, granularity, refine)
    remark = remark_of(method)
    if remark is not None:
        note(remark(problem, scales))
    means = statistics.mean_analog[:, None, :] @ grouped
    means -= statistics.mean_quantized[:, None, :] @ (levels * scales[:, None, :])
    if statistics.residual is not None:
        means += statistics.residual.mean[:, None, :]
    return LayerSolution(
        levels=levels.transpose(0, 2, 1).reshape(weights.shape).astype(np.int16),
        scales=scales.reshape(-1),
        bias=bias + means.reshape(-1),
        relative_error=_relative_error(replace(statistics, residual=None), grouped, levels, scales),
    )


def _relative_error(
    statistics: LayerStatistics, weights: FloatArray, levels: FloatArray, scales: FloatArray
) -> float:
    objective = LayerObjective.of(statistics, weights)
    error, energy = objective.error(levels, scales).sum(), objective.energy.sum()
    if energy == 0:
        return float(error > 0)
    return float(np.sqrt(error / energy))


def _require_finite(weights: FloatArray, bias: FloatArray, statistics: LayerStatistics) -> None:
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise ModelError("the weights or biases of a layer are not finite", hint="check the trained model")
    products = (statistics.gram, statistics.cross, statistics.analog_gram)
    means = (statistics.mean_quantized, statistics.mean_analog)
    if not all(np.isfinite(array).all() for array in (*products, *means)):
        raise ModelError(
            "the inputs of a layer are not finite, or overflow when squared",
            why="the calibration data or the float network produce NaN, infinity or huge values",
            hint="check the calibration data and their preprocessing",
        )

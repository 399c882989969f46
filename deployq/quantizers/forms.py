"""The form of statistics in which a layer is solved: the products of its inputs, or the samples.

For m rows and N inputs, products take 3 N^2 numbers in float64, samples 2 m N in float32: for m < N at
most a third. In time, products win where there are nearly as many rows as inputs (N x C x m, GPFQ with the
search over scales, seconds of the Gram form and of the sample form: 784x500x700 1.0 and 1.6, 1152x64x1100
0.45 and 0.50; 784x500x256 1.0 and 0.7, 1152x64x256 0.37 and 0.21, 2304x64x512 1.9 and 0.5).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy.typing as npt

from deployq.quantizers.inputs import InputStatistics
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.registry import traits_of
from deployq.quantizers.samples import SampleAccumulator
from deployq.quantizers.statistics import StatisticsAccumulator

#: Rows per input up to which samples are faster at any number of neurons.
_FASTER_UP_TO = 0.5

#: Bytes of products that are too many where the samples take less.
_LARGE = 2**28


class Accumulator(Protocol):
    """Takes rows in chunks."""

    def update(self, quantized: npt.NDArray[Any], analog: npt.NDArray[Any]) -> None:
        """Add rows of X~ and X, (groups, rows, N)."""

    def finish(self) -> InputStatistics:
        """The statistics of all rows so far, centred."""


def statistics_accumulator(
    groups: int, inputs: int, rows: int, method: str, options: SolverOptions, refine: int
) -> Accumulator:
    """What collects the statistics of a layer: samples where that pays and the method can.

    Args:
        groups: groups of the layer.
        inputs: inputs N of one neuron.
        rows: m, all there will be.
        method: name of the quantizer.
        options: of the quantizer; a ridge needs products.
        refine: rounds of coordinate descent, which needs products.

    Raises:
        UsageError: there is no such quantizer.
    """
    if traits_of(method).on_samples and not options.ridge and not refine:
        large = 24 * groups * inputs**2 > _LARGE
        if rows <= _FASTER_UP_TO * inputs or (large and rows < inputs):
            return SampleAccumulator(groups, inputs, rows)
    return StatisticsAccumulator(groups, inputs)

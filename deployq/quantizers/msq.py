"""Memoryless scalar quantization: each weight to its nearest level."""

from __future__ import annotations

import numpy as np

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.quantizers.registry import in_scale_units, quantizer
from deployq.quantizers.statistics import LayerStatistics


@quantizer("msq")
def solve(
    statistics: LayerStatistics, weights: FloatArray, alphabet: Alphabet, scales: FloatArray
) -> FloatArray:
    """Round to nearest; O(N C), ignores the data. The baseline of arXiv 2010.15979."""
    return np.asarray(alphabet.nearest(in_scale_units(weights, scales)), dtype=np.float64)

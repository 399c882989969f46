"""Activation ranges from calibration samples, streamed; from ranges to int8 quantizations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.arithmetic import round_half_up
from deployq.errors import UsageError
from deployq.graph import Graph, Quantization
from deployq.graph.run import run_nodes
from deployq.threads import single_threaded

Array = npt.NDArray[Any]
Batches = Callable[[], Iterable[Array]]

_BINS = 2048
_SHRINK_STEPS = 80

#: A tensor of smaller range is zero for all purposes; the scale must be a normal float32.
_SMALLEST_SCALE = 1e-30


@dataclass(frozen=True)
class RangeMethod:
    """How a range is chosen from the values a tensor took.

    Attributes:
        name: "minmax", "percentile" or "mse".
        percentile: share of values kept, in percent, for "percentile".
    """

    name: str = "minmax"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.name not in ("minmax", "percentile", "mse"):
            raise UsageError(
                f"unknown activation range method {self.name!r}", hint="minmax, percentile or mse"
            )
        if not 50 < self.percentile <= 100:
            raise UsageError(f"percentile {self.percentile} is not in (50, 100]")


@dataclass
class _Histogram:
    """Extremes of a tensor and, in a second pass, the distribution between them."""

    low: float = np.inf
    high: float = -np.inf
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, dtype=np.int64))

    def widen(self, values: Array) -> None:
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def count(self, values: Array) -> None:
        self.counts += np.histogram(values, bins=_BINS, range=(self.low, self.high))[0]

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        edges = np.linspace(self.low, self.high, _BINS + 1)
        return (edges[:-1] + edges[1:]) / 2


def quantization_of_range(low: float, high: float) -> Quantization:
    """int8 quantization that covers [low, high] and represents zero exactly.

    Zero must be a code: padding and ReLU produce it.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    if scale < _SMALLEST_SCALE:
        return Quantization(1.0, 0)
    zero_point = int(np.clip(round_half_up(-128 - low / scale), -128, 127))
    return Quantization(scale, zero_point)


@single_threaded
def calibrate(
    graph: Graph, batches: Batches, method: RangeMethod, input_quantization: Quantization | None
) -> Mapping[str, Quantization]:
    """Run the float network over the samples and choose a quantization for every tensor.

    Args:
        graph: simplified float graph.
        batches: gives the float32 batches (N, ...) anew at each call; memory holds one at a time.
        method: how ranges are chosen.
        input_quantization: fixed quantization of the input, or None to calibrate it too.

    Returns:
        Quantization by tensor name. Operators that keep or fix their quantization override it later.

    Raises:
        UsageError: the network produces NaN or infinity on the samples.
    """
    histograms: dict[str, _Histogram] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # both end as what is refused here
        _pass(graph, batches, histograms, _Histogram.widen)
    for name, histogram in histograms.items():
        if not (np.isfinite(histogram.low) and np.isfinite(histogram.high)):
            raise UsageError(
                "the float network gives NaN or infinity on the calibration samples",
                where=f"tensor {name!r}",
                hint="check the preprocessing (--scale, --mean, --std, --layout)",
            )
    if method.name != "minmax":
        spread = {name: histogram for name, histogram in histograms.items() if histogram.high > histogram.low}
        _pass(graph, batches, spread, _Histogram.count)
    chosen = {name: _choose(histogram, method) for name, histogram in histograms.items()}
    _narrow(graph, chosen)
    if input_quantization is not None:
        chosen[graph.input] = input_quantization
    return chosen


def _narrow(graph: Graph, chosen: dict[str, Quantization]) -> None:
    """Give a tensor whose only reader keeps its quantization the range of that reader's output.

    Clip, max pooling and reshape are monotone, so what saturates before them would not have come
    through them otherwise than saturated; and the values that do come through get all the codes.
    """
    for node in reversed(graph.nodes):
        keeps = getattr(node.op, "keeps_quantization", False)
        if keeps and len(graph.consumers(node.inputs[0])) == 1 and node.inputs[0] != graph.output:
            chosen[node.inputs[0]] = chosen[node.output]


def _pass(
    graph: Graph,
    batches: Batches,
    histograms: dict[str, _Histogram],
    visit: Callable[[_Histogram, Array], None],
) -> None:
    create = not histograms
    for batch in batches():
        visited = chain(
            [(graph.input, batch)], ((node.output, value) for node, value in run_nodes(graph, batch))
        )
        for name, value in visited:
            if create:
                histograms.setdefault(name, _Histogram())
            if name in histograms:
                visit(histograms[name], value)


def _choose(histogram: _Histogram, method: RangeMethod) -> Quantization:
    if method.name == "minmax" or histogram.high == histogram.low:
        return quantization_of_range(histogram.low, histogram.high)
    if method.name == "percentile":
        return quantization_of_range(*_percentile_range(histogram, method.percentile))
    return _least_squares(histogram)


def _percentile_range(histogram: _Histogram, percentile: float) -> tuple[float, float]:
    """Cut (100 - percentile) / 2 percent of the values off each end."""
    cumulative = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (100 - percentile) / 200
    edges = np.linspace(histogram.low, histogram.high, _BINS + 1)
    low = edges[int(np.searchsorted(cumulative, tail, side="right"))]
    high = edges[min(int(np.searchsorted(cumulative, 1 - tail, side="left")) + 1, _BINS)]
    return float(low), float(high)


def _least_squares(histogram: _Histogram) -> Quantization:
    """The range, shrunk towards zero by a common factor, of least mean squared error."""
    centres, counts = histogram.centres, histogram.counts
    best, best_error = quantization_of_range(histogram.low, histogram.high), np.inf
    for factor in np.linspace(1.0, 0.2, _SHRINK_STEPS):
        candidate = quantization_of_range(histogram.low * factor, histogram.high * factor)
        codes = np.clip(round_half_up(centres / candidate.scale) + candidate.zero_point, -128, 127)
        restored = (codes - candidate.zero_point) * candidate.scale
        error = float(np.sum(counts * (centres - restored) ** 2))
        if error < best_error:
            best, best_error = candidate, error
    return best

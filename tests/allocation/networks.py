"""A small trained-looking classifier with its calibration data, for the tests of the allocation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from deployq.allocation.workbench import Batch
from deployq.calibrate import RangeMethod, calibrate
from deployq.graph import Graph, Quantization, run_graph
from deployq.layerwise import quantize_values
from deployq.ops.linear import Linear
from deployq.passes import simplify
from tests.test_layerwise import residual_graph


@dataclass(frozen=True)
class Example:
    """A float network, its quantizations and samples."""

    graph: Graph
    calibrated: dict[str, Quantization]
    samples: npt.NDArray[np.float32]

    @staticmethod
    def make(seed: int = 0, samples: int = 192) -> Example:
        """A residual network with random weights on smooth random images; its logits have variance 4."""
        rng = np.random.default_rng(seed)
        graph = simplify(residual_graph(rng))
        coarse = rng.normal(size=(samples, 3, 2, 2)).astype(np.float32)
        images = coarse.repeat(3, axis=2).repeat(3, axis=3)
        images += 0.3 * rng.normal(size=images.shape).astype(np.float32)
        graph = _with_spread_logits(graph, images)
        return Example(graph, dict(calibrate(graph, lambda: [images], RangeMethod(), None)), images)

    def batches(self, first: int = 0, last: int | None = None, size: int = 32) -> list[Batch]:
        """Pairs (float, int8) of some samples."""
        chosen = self.samples[first:last]
        parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        return [(part, quantize_values(part, self.calibrated[self.graph.input])) for part in parts]


def _with_spread_logits(graph: Graph, images: npt.NDArray[np.float32]) -> Graph:
    """The graph with an affine map of its logits folded into its last layer."""
    logits = run_graph(graph, images).astype(np.float64)
    last = graph.nodes[-1]
    assert isinstance(last.op, Linear)
    gain = 2 / logits.std(axis=0)
    weight = (last.op.weight * gain[:, None]).astype(np.float32)
    spread = replace(last.op, weight=weight, bias=(last.op.bias - logits.mean(axis=0)) * gain)
    return graph.with_nodes((*graph.nodes[:-1], replace(last, op=spread)))

"""Layers with weights, drawn with what surrounds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from deployq.alphabet import alphabet
from deployq.graph import Graph, Shape
from deployq.ops import FloatOperator
from deployq.ops.clip import Clip
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.linear import IntegerLinear
from deployq.ops.output_stage import Bounds
from tests.integer_networks import NetworkBuilder

BOUNDS: tuple[Callable[[int], Bounds], ...] = (
    lambda channels: Bounds.none(),
    lambda channels: Bounds(np.array(0.0), np.array(np.inf)),
    lambda channels: Bounds(np.array(-0.3), np.array(0.4)),
    lambda channels: Bounds(-np.linspace(0.1, 1, channels), np.linspace(0.2, 2, channels)),
)


@dataclass(frozen=True, kw_only=True)
class WeightedLayer(ABC):
    """A layer with weights and what surrounds it.

    Attributes:
        letters: name of the alphabet.
        bounds: index into the kinds of clamps.
        zero_point: of every tensor, or None for the calibrated ones.
        extreme: "low" or "high" where every weight is the lowest or highest.
        enclosed: between two element-wise layers, so that its input and output lie in the arena.
        seed: of the random weights.
        shift: left shift of the output stage beyond the usual one, see `shifted`.
    """

    letters: str
    bounds: int = 0
    zero_point: int | None = None
    extreme: str = ""
    enclosed: bool = False
    seed: int = 0
    shift: int = 0

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Of the input."""

    @abstractmethod
    def operator(self) -> FloatOperator:
        """The layer alone, its weights not drawn yet."""

    def graph(self) -> Graph:
        """The layer as an integer graph with random weights."""
        rng = np.random.default_rng(self.seed)
        builder = NetworkBuilder(rng, alphabet(self.letters), self.shape, self.zero_point)
        source = builder.add(Clip(-1.5, 2.0), "x") if self.enclosed else "x"
        result = builder.add(self.operator(), source, extreme=self.extreme)
        graph = builder.graph(builder.add(Clip(-1.0, 1.0), result) if self.enclosed else result)
        return self.altered(graph, rng)

    def altered(self, graph: Graph, rng: np.random.Generator) -> Graph:
        """The graph with output stages that random weights do not give."""
        return shifted(graph, self.shift)


def shifted(graph: Graph, shift: int) -> Graph:
    """The graph with output stages of weighted layers that shift further left and multiply by less.

    Args:
        graph: integer graph.
        shift: so many places more, or as many as keep all sums in 32 bits.
    """
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, IntegerConv2d | IntegerLinear):
            lowest, highest = node.op.accumulation.extremes()
            largest = max(abs(int(lowest.min())), abs(int(highest.max())))
            stage = node.op.accumulation.stage
            more = min(shift, 31 - largest.bit_length() - stage.shift)
            stage = replace(
                stage, shift=stage.shift + more, multiplier=np.maximum(stage.multiplier >> more, 1)
            )
            op = replace(node.op, accumulation=replace(node.op.accumulation, stage=stage))
            node = replace(node, op=op)
        nodes.append(node)
    return graph.with_nodes(tuple(nodes), output=graph.output)

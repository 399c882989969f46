"""Find the operator that an Affine or a Clip can be folded back into."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from deployq.graph import Graph, Node, Operator, Shape
from deployq.passes.rewrite import sole_reader

Map = TypeVar("Map")

#: Moves a map from the output of an operator to its input (of the given shape); None if that is not exact.
Commute = Callable[[Map, Operator, Shape], Map | None]


def reach_back(
    graph: Graph, node: Node, value: Map, commute: Commute[Map], accepts: Callable[[Operator], bool]
) -> tuple[Node, Map] | None:
    """Walk from `node` towards the input, through operators that `value` commutes with.

    Every tensor on the way must be read by the chain alone.

    Returns:
        The first node that `accepts`, and the map as it stands at its output; None if there is none.
    """
    tensor = node.inputs[0]
    while (producer := graph.producer(tensor)) is not None and sole_reader(graph, tensor) is not None:
        if accepts(producer.op):
            return producer, value
        if len(producer.inputs) != 1:
            return None
        moved = commute(value, producer.op, graph.tensors[producer.inputs[0]].shape)
        if moved is None:
            return None
        value, tensor = moved, producer.inputs[0]
    return None

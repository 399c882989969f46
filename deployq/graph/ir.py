"""Tensor, Node, Graph: frozen, validated on construction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

Shape = tuple[int, ...]
Array = npt.NDArray[Any]


class GraphError(ValueError):
    """A graph that breaks an invariant of the representation (a programming error)."""


class Operator(Protocol):
    """What the graph needs to know of an operator; the operators themselves live in `deployq.ops`."""

    kind: ClassVar[str]

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output for the given input shapes; raises ValueError if they do not fit."""

    def run(self, inputs: Sequence[Array]) -> Array:
        """Evaluate on a batch."""


@dataclass(frozen=True)
class Quantization:
    """Affine int8 quantization of a tensor: real = scale * (q - zero_point)."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise GraphError(f"scale {self.scale} is not positive and finite")
        if not -128 <= self.zero_point <= 127:
            raise GraphError(f"zero point {self.zero_point} is not an int8")


@dataclass(frozen=True)
class Tensor:
    """A value in the graph.

    Attributes:
        name: unique in the graph.
        shape: per sample, without the batch dimension.
        quantization: None in a float graph.
    """

    name: str
    shape: Shape
    quantization: Quantization | None = None

    @property
    def size(self) -> int:
        """Elements per sample (bytes, for int8 tensors)."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Node:
    """One operator application.

    Attributes:
        name: unique in the graph, from the model where it has one.
        op: attributes and parameters.
        inputs: names of the input tensors.
        output: name of the output tensor.
        source: the nodes of the source model it came from, for comments and messages.
    """

    name: str
    op: Operator
    inputs: tuple[str, ...]
    output: str
    source: str = ""


@dataclass(frozen=True)
class Graph:
    """A network with one input and one output; nodes stand in an order in which they can run."""

    name: str
    input: str
    output: str
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor] = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        known = {self.input}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in known]
            if missing:
                raise GraphError(f"node {node.name!r} reads {missing} before they are computed")
            if node.output in known:
                raise GraphError(f"tensor {node.output!r} is computed twice")
            known.add(node.output)
        if self.output not in known:
            raise GraphError(f"the output {self.output!r} is not computed")
        if known != set(self.tensors):
            raise GraphError(f"tensors and nodes disagree: {sorted(known ^ set(self.tensors))}")
        if len({node.name for node in self.nodes}) != len(self.nodes):
            raise GraphError("two nodes have the same name")

    def producer(self, tensor: str) -> Node | None:
        """The node that computes `tensor`; None for the graph input."""
        return next((node for node in self.nodes if node.output == tensor), None)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """The nodes that read `tensor`."""
        return tuple(node for node in self.nodes if tensor in node.inputs)

    def input_shapes(self, node: Node) -> tuple[Shape, ...]:
        """Shapes of the inputs of a node."""
        return tuple(self.tensors[name].shape for name in node.inputs)

    def with_nodes(
        self, nodes: Iterable[Node], *, input: str | None = None, output: str | None = None
    ) -> Graph:
        """The graph of other nodes, shapes inferred anew from the operators' rules.

        Tensors keep their quantization where their name is kept; dead nodes are dropped.
        """
        graph_input, graph_output = input or self.input, output or self.output
        live = _live_nodes(tuple(nodes), graph_output)
        tensors = {graph_input: replace(self.tensors[self.input], name=graph_input)}
        for node in live:
            shape = node.op.output_shape([tensors[name].shape for name in node.inputs])
            old = self.tensors.get(node.output)
            tensors[node.output] = Tensor(node.output, shape, old.quantization if old else None)
        return Graph(self.name, graph_input, graph_output, live, tensors)


def _live_nodes(nodes: tuple[Node, ...], output: str) -> tuple[Node, ...]:
    needed = {output}
    live: list[Node] = []
    for node in reversed(nodes):
        if node.output in needed:
            needed.update(node.inputs)
            live.append(node)
    return tuple(reversed(live))

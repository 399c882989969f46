"""Graphs as chains of torch functions; what the float and the integer network have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployq.errors import UsageError
from deployq.graph import Graph, Node, last_uses

#: Output of a node from its inputs, each (n, ...).
Step = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Execution:
    """A graph of which every node has become a torch function.

    Attributes:
        graph: where it came from.
        steps: one function per node, in order.
    """

    graph: Graph
    steps: tuple[Step, ...]

    @staticmethod
    def of(graph: Graph, forms: Mapping[type, Any], make: Callable[[Any, Node], Step]) -> Execution:
        """Look up the torch form of every operator.

        Args:
            graph: float or integer graph.
            forms: torch forms by class of operator.
            make: calls a form for a node.

        Raises:
            UsageError: an operator has no torch form.
        """
        missing = [node for node in graph.nodes if type(node.op) not in forms]
        if missing:
            kinds = sorted({node.op.kind for node in missing})
            raise UsageError(
                f"scales and biases cannot be tuned through {', '.join(kinds)}",
                where=missing[0].source or missing[0].name,
                why="deployq.training has no torch form of the operator",
                hint="build without tuning",
            )
        return Execution(graph, tuple(make(forms[type(node.op)], node) for node in graph.nodes))

    def run(self, batch: Tensor) -> Tensor:
        """Output (n, ...) for a batch (n, ...)."""
        return self.run_tapped(batch, ())[0]

    def run_tapped(self, batch: Tensor, taps: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Output for a batch and the values of some tensors on the way, by name."""
        result, tapped = batch, {}
        for node, value in self.run_nodes(batch):
            if node.output == self.graph.output:
                result = value
            if node.output in taps:
                tapped[node.output] = value
        return result, tapped

    def run_nodes(self, batch: Tensor) -> Iterator[tuple[Node, Tensor]]:
        """Evaluate node by node, yielding each with its output; a tensor is freed after its last use."""
        uses = last_uses(self.graph)
        values = {self.graph.input: batch}
        for index, (node, step) in enumerate(zip(self.graph.nodes, self.steps, strict=True)):
            result = step([values[name] for name in node.inputs])
            values[node.output] = result
            for name in [name for name in values if uses.get(name, -1) <= index]:
                del values[name]
            yield node, result


def float_tensor(values: Any) -> Tensor:
    """A float32 tensor with its own memory; four-dimensional ones in channels-last order."""
    tensor = torch.tensor(np.asarray(values), dtype=torch.float32)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def per_channel(values: Tensor, rank: int) -> Tensor:
    """Values () or (channels,) shaped to broadcast against a batch of a rank, axis 1 the channel."""
    return values.reshape(1, -1, *(1,) * (rank - 2)) if values.ndim else values

"""Run a graph, float or integer, freeing each tensor after its last use."""

from __future__ import annotations

from collections.abc import Iterator

from deployq.graph.ir import Array, Graph, Node


def last_uses(graph: Graph) -> dict[str, int]:
    """Index of the last node that reads each tensor; the graph output lives past the last node."""
    uses = {name: index for index, node in enumerate(graph.nodes) for name in (*node.inputs, node.output)}
    for index, node in enumerate(graph.nodes):
        for name in node.inputs:
            uses[name] = index
    uses[graph.output] = len(graph.nodes)
    return uses


def run_nodes(graph: Graph, batch: Array) -> Iterator[tuple[Node, Array]]:
    """Evaluate node by node, yielding each node with its output."""
    uses = last_uses(graph)
    values = {graph.input: batch}
    for index, node in enumerate(graph.nodes):
        result = node.op.run([values[name] for name in node.inputs])
        values[node.output] = result
        for name in [name for name in values if uses.get(name, -1) <= index]:
            del values[name]
        yield node, result


def run_graph(graph: Graph, batch: Array) -> Array:
    """Evaluate the whole graph on a batch (N, ...)."""
    result = batch
    for node, value in run_nodes(graph, batch):
        if node.output == graph.output:
            result = value
    return result

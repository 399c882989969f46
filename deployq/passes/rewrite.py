"""Small edits of a graph that the passes are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from deployq.graph import Graph, Node


def until_stable(step: Callable[[Graph], Graph], graph: Graph) -> Graph:
    """Apply `step` until it returns the very graph it was given."""
    while (result := step(graph)) is not graph:
        graph = result
    return graph


def sole_reader(graph: Graph, tensor: str) -> Node | None:
    """The node that alone reads `tensor`; None if it has several readers or is the graph output."""
    readers = graph.consumers(tensor)
    return readers[0] if len(readers) == 1 and tensor != graph.output else None


def replace_node(graph: Graph, old: Node, new: Sequence[Node]) -> Graph:
    """Put other nodes in the place of one; the last of them computes the same tensor."""
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.extend(new if node is old else [node])
    return graph.with_nodes(nodes)


def bypass(graph: Graph, node: Node) -> Graph:
    """Remove a node; its readers read its first input instead."""
    old, new = node.output, node.inputs[0]
    kept = [
        replace(other, inputs=tuple(new if name == old else name for name in other.inputs))
        for other in graph.nodes
        if other is not node
    ]
    return graph.with_nodes(kept, output=new if graph.output == old else graph.output)


def absorb(graph: Graph, absorber: Node, absorbed: Node) -> Graph:
    """Replace `absorber` (same name as the node it stands for) and remove `absorbed`.

    The sources of both are kept in the absorber, for comments and messages.
    """
    source = "; ".join(filter(None, (absorber.source, absorbed.source)))
    old = next(node for node in graph.nodes if node.name == absorber.name)
    return bypass(replace_node(graph, old, [replace(absorber, source=source)]), absorbed)

"""Remove reshapes that change nothing, and join consecutive ones. Exact.

Reshapes cost nothing in C, but they hide neighbours from each other.
"""

from __future__ import annotations

from dataclasses import replace

from deployq.graph import Graph
from deployq.ops.reshape import Reshape
from deployq.passes.rewrite import bypass, replace_node, until_stable


def merge_reshape(graph: Graph) -> Graph:
    """Leave no reshape behind a reshape, and none to the shape its input has."""
    return until_stable(_merge_one, graph)


def _merge_one(graph: Graph) -> Graph:
    for node in graph.nodes:
        if not isinstance(node.op, Reshape):
            continue
        if node.op.shape == graph.tensors[node.inputs[0]].shape:
            return bypass(graph, node)
        producer = graph.producer(node.inputs[0])
        if producer is not None and isinstance(producer.op, Reshape):
            return replace_node(graph, node, [replace(node, inputs=producer.inputs)])
    return graph

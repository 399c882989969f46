"""Join consecutive Affines, and remove those that change nothing. Exact.

Needed where no weighted operator precedes, e.g. a normalisation written out as Sub and Div at the input.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deployq.graph import Graph
from deployq.ops.affine import Affine
from deployq.passes.rewrite import absorb, bypass, sole_reader, until_stable


def merge_affine(graph: Graph) -> Graph:
    """Leave no Affine directly behind another that nothing else reads, and none that is the identity."""
    return until_stable(_merge_one, graph)


def _merge_one(graph: Graph) -> Graph:
    for node in graph.nodes:
        if not isinstance(node.op, Affine):
            continue
        if np.all(node.op.gain == 1) and not np.any(node.op.offset):
            return bypass(graph, node)
        reader = sole_reader(graph, node.output)
        if reader is not None and isinstance(reader.op, Affine):
            first, second = node.op, reader.op
            joined = Affine(first.gain * second.gain, first.offset * second.gain + second.offset)
            return absorb(graph, replace(node, op=joined), reader)
    return graph

"""Turn the Affines that could not be folded into depthwise 1x1 convolutions with 8-bit weights.

An Affine has no integer form of its own; as a convolution it runs on kernels that exist. Its few
weights are kept at 8 bits whatever width the user asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deployq.graph import Graph, Node, Shape
from deployq.ops.affine import Affine
from deployq.ops.conv2d import Conv2d
from deployq.ops.reshape import Reshape
from deployq.ops.window import Window
from deployq.passes.rewrite import replace_node, until_stable

AFFINE_ALPHABET = "symmetric-8"


def lower_affine(graph: Graph) -> Graph:
    """Replace every Affine; a vector (features,) is seen as (features, 1, 1), which costs nothing."""
    return until_stable(_lower_one, graph)


def _lower_one(graph: Graph) -> Graph:
    for node in graph.nodes:
        if isinstance(node.op, Affine):
            shape = graph.tensors[node.output].shape
            return replace_node(graph, node, _lowered(graph, node, node.op, shape))
    return graph


def _lowered(graph: Graph, node: Node, affine: Affine, shape: Shape) -> Sequence[Node]:
    channels = len(affine.gain)
    weight = affine.gain.astype(np.float32).reshape(channels, 1, 1, 1)
    convolution = Conv2d(weight, affine.offset, Window((1, 1)), channels, fixed_alphabet=AFFINE_ALPHABET)
    if len(shape) == 3:
        return [replace(node, op=convolution)]
    column, result = _fresh(graph, f"{node.output}/column"), _fresh(graph, f"{node.output}/affine")
    return [
        Node(
            _fresh(graph, f"{node.name}/column"), Reshape((channels, 1, 1)), node.inputs, column, node.source
        ),
        replace(node, op=convolution, inputs=(column,), output=result),
        Node(_fresh(graph, f"{node.name}/flat"), Reshape(shape), (result,), node.output, node.source),
    ]


def _fresh(graph: Graph, name: str) -> str:
    """A name that no tensor and no node has."""
    taken = set(graph.tensors) | {node.name for node in graph.nodes}
    while name in taken:
        name += "'"
    return name

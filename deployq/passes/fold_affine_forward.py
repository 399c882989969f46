"""Fold an Affine that has no weighted operator before it into the one behind it. Exact.

This is the normalisation at the graph input. It is the second choice: it changes the relative size
of the weight columns, which a low-bit quantizer sees. It is also used behind a flatten of a spatial
tensor, where the gain varies within a channel and so could not become a convolution.

A padded convolution reads zeros around the image that never saw the offset, so it takes the map
only if the offset is zero.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deployq.graph import Graph, Node, Shape
from deployq.ops.affine import Affine
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.reshape import Reshape
from deployq.passes.rewrite import absorb, sole_reader, until_stable


def fold_affine_forward(graph: Graph) -> Graph:
    """Fold every Affine on the graph input, or behind a reshape, into the weighted operator it feeds."""
    return until_stable(_fold_one, graph)


def _fold_one(graph: Graph) -> Graph:
    for node in graph.nodes:
        if not isinstance(node.op, Affine) or not _may_move_forward(graph, node):
            continue
        reader, affine = _weighted_reader(graph, node, node.op)
        if reader is None:
            continue
        assert isinstance(reader.op, Conv2d | Linear)
        return absorb(graph, replace(reader, op=before(affine, reader.op)), node)
    return graph


def _may_move_forward(graph: Graph, node: Node) -> bool:
    producer = graph.producer(node.inputs[0])
    return producer is None or isinstance(producer.op, Reshape)


def _weighted_reader(graph: Graph, node: Node, affine: Affine) -> tuple[Node | None, Affine]:
    """The weighted node that reads the Affine, perhaps through reshapes, and the map at its input."""
    reader = sole_reader(graph, node.output)
    while reader is not None and isinstance(reader.op, Reshape):
        affine = _after_reshape(affine, graph.tensors[reader.inputs[0]].shape, reader.op.shape)
        reader = sole_reader(graph, reader.output)
    if reader is None or not isinstance(reader.op, Conv2d | Linear):
        return None, affine
    padded = isinstance(reader.op, Conv2d) and any(reader.op.window.pads)
    if len(affine.gain) != graph.tensors[reader.inputs[0]].shape[0] or (padded and np.any(affine.offset)):
        return None, affine
    return reader, affine


def _after_reshape(affine: Affine, source: Shape, target: Shape) -> Affine:
    """The map behind a reshape; its length fits the target only if each new channel has one gain."""
    area = int(np.prod(source)) // len(affine.gain)
    gain, offset = np.repeat(affine.gain, area), np.repeat(affine.offset, area)
    rows, shifts = gain.reshape(target[0], -1), offset.reshape(target[0], -1)
    if np.all(rows == rows[:, :1]) and np.all(shifts == shifts[:, :1]):
        return Affine(rows[:, 0].copy(), shifts[:, 0].copy())
    return Affine(gain, offset)


def before(affine: Affine, op: Conv2d | Linear) -> Conv2d | Linear:
    """The affine map followed by the operator, as one operator."""
    out, taps = op.weight.shape[0], op.weight.shape[1]
    per_group = out // op.groups
    weight = op.weight.astype(np.float64).reshape(op.groups, per_group, taps, -1)
    gain, offset = (values.reshape(op.groups, 1, taps, 1) for values in (affine.gain, affine.offset))
    bias = op.bias + (weight * offset).sum(axis=(2, 3)).reshape(-1)
    return replace(op, weight=(weight * gain).reshape(op.weight.shape).astype(np.float32), bias=bias)

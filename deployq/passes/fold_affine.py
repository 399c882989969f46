"""Fold an Affine (BatchNormalization, bias) into the weighted operator before it. Exact.

After an activation too, since gain * clip(W x + b) + offset = clip'((gain W) x + gain b + offset),
where clip' has the bounds gain * low + offset and gain * high + offset, swapped where gain < 0.
So Conv-Relu-BatchNormalization becomes one convolution with bounds per channel, and no layer is added.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deployq.arithmetic import FloatArray
from deployq.graph import Graph, Operator, Shape
from deployq.ops.affine import Affine
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.maxpool2d import MaxPool2d
from deployq.ops.output_stage import Bounds
from deployq.ops.reshape import Reshape
from deployq.passes.reach import reach_back
from deployq.passes.rewrite import absorb, until_stable


def fold_affine(graph: Graph) -> Graph:
    """Fold every Affine that has a weighted producer of its own."""
    return until_stable(_fold_one, graph)


def _fold_one(graph: Graph) -> Graph:
    for node in graph.nodes:
        if isinstance(node.op, Affine):
            found = reach_back(
                graph, node, node.op, commute_affine, lambda op: isinstance(op, Conv2d | Linear)
            )
            if found is not None:
                producer, affine = found
                assert isinstance(producer.op, Conv2d | Linear)
                return absorb(graph, replace(producer, op=after(producer.op, affine)), node)
    return graph


def after(op: Conv2d | Linear, affine: Affine) -> Conv2d | Linear:
    """The operator followed by the affine map, as one operator."""
    gain = affine.gain.reshape(-1, *(1,) * (op.weight.ndim - 1))
    return replace(
        op,
        weight=(op.weight * gain).astype(np.float32),
        bias=op.bias * affine.gain + affine.offset,
        bounds=map_bounds(op.bounds, affine),
    )


def map_bounds(bounds: Bounds, affine: Affine) -> Bounds:
    """Bounds of gain * clip(.) + offset. A channel of gain 0 is constant, whatever its weights become."""

    def moved(bound: FloatArray) -> FloatArray:
        scaled = np.multiply(affine.gain, bound, out=np.zeros_like(affine.gain), where=affine.gain != 0)
        return scaled + affine.offset

    low, high = moved(bounds.low), moved(bounds.high)
    return Bounds(_uniform(np.minimum(low, high)), _uniform(np.maximum(low, high)))


def _uniform(bound: FloatArray) -> FloatArray:
    """One bound in place of equal ones, which is cheaper to execute."""
    return bound[0].reshape(()) if np.all(bound == bound[0]) else bound


def commute_affine(affine: Affine, op: Operator, shape: Shape) -> Affine | None:
    """The affine map before `op` (input `shape`) that equals `affine` after it; None if there is none."""
    if isinstance(op, MaxPool2d):
        return affine if np.all(affine.gain >= 0) else None
    if isinstance(op, AveragePool2d):
        # Zeros of the padding, if they are counted, would not get the offset.
        return affine if not (op.include_pad and any(op.window.pads) and np.any(affine.offset)) else None
    if isinstance(op, Reshape):
        return _before_reshape(affine, shape)
    return None


def _before_reshape(affine: Affine, shape: Shape) -> Affine | None:
    if len(affine.gain) % shape[0]:
        return None
    gain, offset = (values.reshape(shape[0], -1) for values in (affine.gain, affine.offset))
    if np.any(gain != gain[:, :1]) or np.any(offset != offset[:, :1]):
        return None
    return Affine(gain[:, 0].copy(), offset[:, 0].copy())

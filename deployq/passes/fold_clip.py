"""Fold a Clip (ReLU, ReLU6) into the bounds of its producer, where it costs nothing. Exact.

Clamping commutes with taking a maximum and with reshaping, so a ReLU after a pool is folded as well.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deployq.graph import Graph, Operator, Shape
from deployq.ops.add import Add
from deployq.ops.clip import Clip
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.maxpool2d import MaxPool2d
from deployq.ops.reshape import Reshape
from deployq.passes.reach import reach_back
from deployq.passes.rewrite import absorb, until_stable


def fold_clip(graph: Graph) -> Graph:
    """Fold every Clip that has a producer of its own with bounds."""
    return until_stable(_fold_one, graph)


def _fold_one(graph: Graph) -> Graph:
    for node in graph.nodes:
        if isinstance(node.op, Clip):
            found = reach_back(
                graph, node, node.op, _commute, lambda op: isinstance(op, Conv2d | Linear | Add)
            )
            if found is not None:
                producer, clip = found
                assert isinstance(producer.op, Conv2d | Linear | Add)
                bounds = producer.op.bounds.intersect(np.array(clip.low), np.array(clip.high))
                return absorb(graph, replace(producer, op=replace(producer.op, bounds=bounds)), node)
    return graph


def _commute(clip: Clip, op: Operator, shape: Shape) -> Clip | None:
    return clip if isinstance(op, MaxPool2d | Reshape) else None

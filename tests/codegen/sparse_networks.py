"""Networks of one sparse layer, and code generation with a given format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from deployq.alphabet import alphabet
from deployq.codegen.packing.gaps import GapFormat
from deployq.graph import Graph, Node, Quantization, Shape, Tensor
from deployq.ops import QuantizedWeights
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.output_stage import Bounds
from deployq.ops.window import Window

Levels = npt.NDArray[Any]


def random_levels(rows: int, taps: int, density: float, seed: int = 0) -> Levels:
    """Ternary levels (rows, taps) of which about `density` are not zero."""
    rng = np.random.default_rng(seed)
    signs = rng.choice(np.array([-1, 1], np.int16), size=(rows, taps))
    return np.where(rng.random((rows, taps)) < density, signs, np.int16(0))


def linear_graph(levels: Levels, zero_point: int = 3, seed: int = 0) -> Graph:
    """A fully connected layer of given levels (rows, taps); both tensors have the zero point."""
    op = Linear(np.zeros(levels.shape, np.float32), np.zeros(len(levels)), Bounds.none())
    return _graph(op, levels, (levels.shape[1],), zero_point, seed)


def conv_graph(
    levels: Levels, size: tuple[int, int], kernel: int, groups: int = 1, zero_point: int = 3, stride: int = 1
) -> Graph:
    """A convolution of given levels (rows, taps) with "same" padding on images of size (height, width)."""
    group_inputs = levels.shape[1] // kernel**2
    pad = kernel // 2
    window = Window((kernel, kernel), (stride, stride), (pad, pad, pad, pad))
    weight = np.zeros((len(levels), group_inputs, kernel, kernel), np.float32)
    op = Conv2d(weight, np.zeros(len(levels)), window, groups, Bounds.none())
    return _graph(op, levels, (group_inputs * groups, *size), zero_point, 0)


def _graph(op: Conv2d | Linear, levels: Levels, shape: Shape, zero_point: int, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.5, 1.0, size=len(levels)) / np.sqrt(np.abs(levels).sum(axis=1) + 1)
    weights = QuantizedWeights(levels, scales, rng.normal(size=len(levels)), alphabet("ternary"))
    given, made = Quantization(0.05, zero_point), Quantization(0.1, zero_point)
    node = Node("layer", op.quantized(weights, given, made), ("x",), "y", source="/layer")
    tensors = {"x": Tensor("x", shape, given), "y": Tensor("y", op.output_shape([shape]), made)}
    return Graph("layer", "x", "y", (node,), tensors)


@contextmanager
def forced_format(layout: GapFormat | None) -> Iterator[None]:
    """Every layer of ternary weights (but depthwise) gets this format; None is the dense one."""

    def choose(levels: Levels, *others: object) -> object:
        return layout.pack(levels) if layout else None

    with (
        patch("deployq.codegen.kernels.sparse.choose_gaps", choose),
        patch("deployq.codegen.schedule.pay_for_code", lambda dense, chosen: chosen),
    ):
        yield

"""Pools, additions, clamps and softmax drawn by hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from deployq.alphabet import alphabet
from deployq.graph import Graph, Shape
from deployq.ops import FloatOperator
from deployq.ops.add import Add
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.clip import Clip
from deployq.ops.maxpool2d import MaxPool2d
from deployq.ops.output_stage import Bounds
from deployq.ops.softmax import Softmax
from deployq.ops.window import Window
from tests.integer_networks import NetworkBuilder

_BOUNDS = (
    Bounds.none(),
    Bounds(np.array(0.0), np.array(np.inf)),
    Bounds(np.array(-0.5), np.array(3.0)),
)


@dataclass(frozen=True)
class UnweightedLayer:
    """An operator on the input, or an addition of the input and a clipped copy of it.

    Attributes:
        op: the operator.
        shape: of its input, or of both.
        zero_point: of every tensor, or None for the calibrated ones.
        enclosed: between two element-wise layers, so that its input and output lie in the arena.
        sums: times that the clipped copy is added to the input beforehand: its scale is so much smaller.
    """

    op: FloatOperator
    shape: Shape
    zero_point: int | None
    enclosed: bool
    sums: int = 0

    def graph(self) -> Graph:
        """The layer as an integer graph."""
        builder = NetworkBuilder(np.random.default_rng(1), alphabet("binary"), self.shape, self.zero_point)
        source = builder.add(Clip(-2.5, 2.0), "x") if self.enclosed else "x"
        inputs = [source]
        if isinstance(self.op, Add):
            copy = builder.add(Clip(-2.0, 3.0), source)
            for _ in range(self.sums):
                source = builder.add(Add(), source, copy)
            inputs = [source, copy]
        result = builder.add(self.op, *inputs)
        return builder.graph(builder.add(Clip(-1.0, 1.0), result) if self.enclosed else result)


_ZERO_POINTS = st.sampled_from((None, -128, 127, 0, 9))
_SIDES = st.integers(1, 9)


@st.composite
def _windows(draw: st.DrawFn) -> tuple[Window, tuple[int, int]]:
    """A window no part of which sees padding only, and a size of the image."""
    kernel = draw(st.sampled_from(((2, 2), (3, 3), (1, 1), (1, 4), (5, 2), (3, 1))))
    pads = tuple(draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4))
    dilations = draw(st.sampled_from(((1, 1), (1, 1), (2, 1), (1, 2)))) if not any(pads) else (1, 1)
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    window = Window(kernel, strides, (pads[0], pads[1], pads[2], pads[3]), dilations)
    height, width = (draw(st.integers(extent, 12)) for extent in window.extent)
    return window, (height, width)


@st.composite
def average_pools(draw: st.DrawFn) -> UnweightedLayer:
    """Average pools, some of them over the whole image."""
    channels = draw(st.integers(1, 35))
    if draw(st.booleans()):
        sizes = st.tuples(_SIDES, _SIDES)
        size = draw(st.one_of(sizes, sizes, st.sampled_from(((16, 16), (1, 257), (17, 31)))))
        op = AveragePool2d(Window(size))
    else:
        window, size = draw(_windows())
        op = AveragePool2d(window, draw(st.booleans()))
    return UnweightedLayer(op, (channels, *size), draw(_ZERO_POINTS), draw(st.booleans()))


@st.composite
def max_pools(draw: st.DrawFn) -> UnweightedLayer:
    """Max pools."""
    window, size = draw(_windows())
    shape = (draw(st.integers(1, 13)), *size)
    return UnweightedLayer(MaxPool2d(window), shape, draw(_ZERO_POINTS), draw(st.booleans()))


#: Shapes of vectors and images.
_SHAPES: st.SearchStrategy[Shape] = st.one_of(
    st.tuples(st.integers(1, 70)), st.tuples(_SIDES, _SIDES, _SIDES)
)


@st.composite
def additions(draw: st.DrawFn) -> UnweightedLayer:
    """Additions of operands of one scale or two."""
    op, sums = Add(draw(st.sampled_from(_BOUNDS))), draw(st.integers(0, 3))
    return UnweightedLayer(op, draw(_SHAPES), draw(_ZERO_POINTS), draw(st.booleans()), sums)


@st.composite
def clamps(draw: st.DrawFn) -> UnweightedLayer:
    """ReLU, ReLU6 and clamps to other bounds that no layer before them took over."""
    low, high = draw(st.sampled_from(((0.0, np.inf), (0.0, 6.0), (-1.0, 1.0), (-np.inf, 0.5))))
    return UnweightedLayer(Clip(low, high), draw(_SHAPES), draw(_ZERO_POINTS), draw(st.booleans()))


@st.composite
def softmaxes(draw: st.DrawFn) -> UnweightedLayer:
    """Softmax of up to 99 classes, at the output of a network."""
    return UnweightedLayer(Softmax(), (draw(st.integers(1, 99)),), draw(_ZERO_POINTS), draw(st.booleans()))

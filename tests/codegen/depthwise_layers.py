"""Depthwise layers drawn by hypothesis, alone or between two others so that they work in place."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from deployq.arithmetic import INT8_MAX, INT8_MIN, INT32_MAX
from deployq.graph import Graph, Shape
from deployq.ops.conv2d import Conv2d, IntegerConv2d
from deployq.ops.window import Window
from tests.codegen.weighted_layers import BOUNDS, WeightedLayer
from tests.integer_networks import ALPHABETS

_LETTERS = tuple(letters.name for letters in ALPHABETS)
_KERNELS = ((3, 3), (3, 3), (3, 3), (1, 1), (1, 3), (3, 1), (2, 2), (5, 5), (1, 5), (7, 2), (4, 6))
_CHANNELS = st.integers(2, 13)

#: Multipliers of channels whose outputs hardly depend on their inputs, or not at all.
_TINY = (1, 56, 200, 6048, 40000, 2**18)


@dataclass(frozen=True)
class DepthwiseLayer(WeightedLayer):
    """A depthwise convolution and what surrounds it.

    Attributes:
        channels: of the input.
        size: (height, width) of the input.
        window: geometry.
        multiplier: output channels of an input channel.
        enormous: the first so many channels have an enormous bias, see `with_enormous_biases`.
        steep: left shift of the output stage that multiplies outputs, see `steeper`.
    """

    channels: int
    size: tuple[int, int]
    window: Window
    multiplier: int = 1
    enormous: int = 0
    steep: int = 0

    @property
    def shape(self) -> Shape:
        return (self.channels, *self.size)

    def operator(self) -> Conv2d:
        out = self.channels * self.multiplier
        weight = np.zeros((out, 1, *self.window.kernel), np.float32)
        return Conv2d(weight, np.zeros(out), self.window, self.channels, BOUNDS[self.bounds](out))

    def altered(self, graph: Graph, rng: np.random.Generator) -> Graph:
        return with_enormous_biases(steeper(super().altered(graph, rng), self.steep), self.enormous, rng)


def steeper(graph: Graph, shift: int) -> Graph:
    """The graph with output stages of convolutions that shift further left: most outputs saturate.

    Args:
        graph: integer graph.
        shift: so many places more, or as many as keep all sums in 32 bits.
    """
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, IntegerConv2d):
            accumulation = node.op.accumulation
            largest = max(int(np.abs(ends).max()) for ends in accumulation.extremes())
            more = min(shift, 31 - largest.bit_length() - accumulation.stage.shift)
            stage = replace(accumulation.stage, shift=accumulation.stage.shift + more)
            op = replace(node.op, accumulation=replace(accumulation, stage=stage))
            node = replace(node, op=op)
        nodes.append(node)
    return graph.with_nodes(tuple(nodes), output=graph.output)


def with_enormous_biases(graph: Graph, channels: int, rng: np.random.Generator) -> Graph:
    """The graph with tiny multipliers and enormous biases in the first channels of its convolutions.

    Such channels come from features that are never seen. Their outputs are constant, inside int8 or
    saturated, or take two values, where a bias puts a step among the sums.
    """
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, IntegerConv2d):
            accumulation = node.op.accumulation
            stage, bias = accumulation.stage, accumulation.bias.copy()
            multiplier = np.broadcast_to(stage.multiplier, bias.shape).copy()
            sums = max(int(np.abs(ends).max()) for ends in accumulation.extremes())
            largest = max((INT32_MAX >> stage.shift) - 2 * sums - 2**16, 0)
            for channel in range(channels):
                multiplier[channel] = rng.choice(_TINY)
                output = int(rng.integers(INT8_MIN - 12, INT8_MAX + 12)) - stage.zero_point
                step = ((2 * output + 1) << (31 - stage.shift)) // int(multiplier[channel])
                bias[channel] = np.clip(step - rng.integers(-400, 400), -largest, largest)
            stage = replace(stage, multiplier=multiplier)
            op = replace(node.op, accumulation=replace(accumulation, stage=stage, bias=bias))
            node = replace(node, op=op)
        nodes.append(node)
    return graph.with_nodes(tuple(nodes), output=graph.output)


@st.composite
def depthwise_layers(draw: st.DrawFn, channels: st.SearchStrategy[int] = _CHANNELS) -> DepthwiseLayer:
    """Any depthwise layer of a small image, most of them 3x3."""
    kernel = draw(st.sampled_from(_KERNELS))
    strides = draw(st.sampled_from(((1, 1), (1, 1), (2, 2), (2, 2), (1, 2), (2, 1), (3, 3), (4, 3))))
    dilations = draw(st.sampled_from(((1, 1), (1, 1), (1, 1), (2, 1), (1, 2), (2, 2))))
    edges = st.integers(0, 3)
    pads = draw(st.one_of(st.just((1, 1, 1, 1)), st.tuples(edges, edges, edges, edges)))
    extent = Window(kernel, dilations=dilations).extent
    height, width = (
        draw(st.integers(max(1, extent[axis] - pads[axis] - pads[2 + axis]), 14)) for axis in range(2)
    )
    return DepthwiseLayer(
        channels=draw(channels),
        size=(height, width),
        window=Window(kernel, strides, pads, dilations),
        multiplier=draw(st.sampled_from((1, 1, 1, 2, 3))),
        letters=_LETTERS[draw(st.integers(0, len(_LETTERS) - 1))],
        bounds=draw(st.integers(0, len(BOUNDS) - 1)),
        zero_point=draw(st.sampled_from((None, -128, 127, 5))),
        extreme=draw(st.sampled_from(("", "", "low", "high"))),
        enclosed=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
        shift=draw(st.sampled_from((0, 0, 1, 6, 12))),
    )


_WINDOW_KERNELS = (
    *((3, 3),) * 4,
    *(
        (1, 1),
        (1, 3),
        (3, 1),
        (2, 2),
        (5, 5),
        (4, 4),
        (1, 7),
        (7, 1),
        (3, 6),
        (6, 2),
        (13, 1),
        (2, 9),
        (17, 2),
    ),
)
_WINDOW_STRIDES = (
    *((1, 1), (2, 2)) * 4,
    (1, 2),
    (2, 1),
    (3, 3),
    (1, 3),
    (3, 1),
    (4, 4),
    (2, 5),
    (6, 7),
    (1, 9),
)
_DILATIONS = (*((1, 1), (2, 2)) * 4, (2, 1), (1, 2), (3, 3), (1, 4), (4, 2), (5, 6), (9, 7))


@st.composite
def window_layers(draw: st.DrawFn) -> DepthwiseLayer:
    """Depthwise layers of any window, of one channel and more."""
    kernel = draw(st.sampled_from(_WINDOW_KERNELS))
    dilations = draw(st.sampled_from(_DILATIONS))
    extent = Window(kernel, dilations=dilations).extent
    same = (extent[0] // 2, extent[1] // 2, (extent[0] - 1) // 2, (extent[1] - 1) // 2)
    edges = st.integers(0, 5)
    pads = draw(st.one_of(st.just(same), st.just(same), st.tuples(edges, edges, edges, edges)))
    smallest = [max(1, extent[axis] - pads[axis] - pads[2 + axis]) for axis in range(2)]
    height, width = (draw(st.integers(low, max(low, draw(st.sampled_from((8, 24, 24)))))) for low in smallest)
    channels = draw(st.sampled_from((1, 2, 3, 4, 4, 5, 8, 9)))
    return DepthwiseLayer(
        channels=channels,
        size=(height, width),
        window=Window(kernel, draw(st.sampled_from(_WINDOW_STRIDES)), pads, dilations),
        multiplier=draw(st.sampled_from((1, 1, 1, 2, 3))),
        letters=_LETTERS[draw(st.integers(0, len(_LETTERS) - 1))],
        bounds=draw(st.sampled_from((*(0,) * 8, *range(len(BOUNDS))))),
        zero_point=draw(st.sampled_from((None, -128, 127, 5))),
        extreme=draw(st.sampled_from(("", "", "low", "high"))),
        enclosed=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
        shift=draw(st.sampled_from((0, 0, 0, 0, 1, 6, 12))),
    )


@st.composite
def lane_layers(draw: st.DrawFn) -> DepthwiseLayer:
    """Layers with 3x3 windows for cores without DSP, most of them with a stage that needs no clamps."""
    edges = st.integers(0, 3)
    pads = draw(st.one_of(st.sampled_from(((1, 1, 1, 1), (0, 0, 1, 1))), st.tuples(*4 * (edges,))))
    sides = (
        draw(st.one_of(st.integers(max(1, 3 - pads[axis] - pads[2 + axis]), 9), st.integers(10, 27)))
        for axis in range(2)
    )
    strides = draw(st.sampled_from(((1, 1), (1, 1), (2, 2), (2, 2), (1, 2), (2, 1), (3, 1), (2, 5))))
    return DepthwiseLayer(
        channels=draw(st.integers(4, 11)),
        size=(next(sides), next(sides)),
        window=Window((3, 3), strides, pads),
        multiplier=1,
        letters=_LETTERS[draw(st.integers(0, len(_LETTERS) - 1))],
        bounds=draw(st.sampled_from((0, 0, 0, *range(len(BOUNDS))))),
        zero_point=draw(st.sampled_from((None, -128, 127, 5))),
        extreme=draw(st.sampled_from(("", "", "low", "high"))),
        enclosed=draw(st.sampled_from((True, True, False))),
        seed=draw(st.integers(0, 2**32 - 1)),
        shift=draw(st.sampled_from((0, 0, 0, 1, 4, 9))),
        enormous=draw(st.sampled_from((0, 0, 0, 1, 2, 4))),
        steep=draw(st.sampled_from((0, 0, 0, 0, 3, 8))),
    )

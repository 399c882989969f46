"""Depthwise layers drawn by hypothesis, alone or between two others so that they work in place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from deployq.graph import Graph
from deployq.ops.clip import Clip
from deployq.ops.conv2d import Conv2d
from deployq.ops.window import Window
from tests.codegen.fields_conv2d_layers import BOUNDS, shifted
from tests.integer_networks import ALPHABETS, NetworkBuilder

_KERNELS = ((3, 3), (3, 3), (3, 3), (1, 1), (1, 3), (3, 1), (2, 2), (5, 5), (1, 5), (7, 2), (4, 6))
_CHANNELS = st.integers(2, 13)


@dataclass(frozen=True)
class DepthwiseLayer:
    """A depthwise convolution and what surrounds it.

    Attributes:
        channels: of the input.
        size: (height, width) of the input.
        window: geometry.
        multiplier: output channels of an input channel.
        letters: index into ALPHABETS.
        bounds: index into the kinds of clamps.
        zero_point: of every tensor, or None for the calibrated ones.
        extreme: "low" or "high" where every weight is the lowest or highest.
        enclosed: between two element-wise layers, so that its input and output lie in the arena.
        seed: of the random weights.
        shift: left shift of the output stage beyond the usual one, see `shifted`.
    """

    channels: int
    size: tuple[int, int]
    window: Window
    multiplier: int
    letters: int
    bounds: int
    zero_point: int | None
    extreme: str
    enclosed: bool
    seed: int
    shift: int = 0

    def graph(self) -> Graph:
        """The layer as an integer graph with random weights."""
        rng = np.random.default_rng(self.seed)
        shape = (self.channels, *self.size)
        builder = NetworkBuilder(rng, ALPHABETS[self.letters], shape, self.zero_point)
        out = self.channels * self.multiplier
        weight = np.zeros((out, 1, *self.window.kernel), np.float32)
        conv = Conv2d(weight, np.zeros(out), self.window, self.channels, BOUNDS[self.bounds](out))
        source = builder.add(Clip(-1.5, 2.0), "x") if self.enclosed else "x"
        result = builder.add(conv, source, extreme=self.extreme)
        graph = builder.graph(builder.add(Clip(-1.0, 1.0), result) if self.enclosed else result)
        return shifted(graph, self.shift)


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
        letters=draw(st.integers(0, len(ALPHABETS) - 1)),
        bounds=draw(st.integers(0, len(BOUNDS) - 1)),
        zero_point=draw(st.sampled_from((None, -128, 127, 5))),
        extreme=draw(st.sampled_from(("", "", "low", "high"))),
        enclosed=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
        shift=draw(st.sampled_from((0, 0, 1, 6, 12))),
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
        letters=draw(st.integers(0, len(ALPHABETS) - 1)),
        bounds=draw(st.sampled_from((0, 0, 0, *range(len(BOUNDS))))),
        zero_point=draw(st.sampled_from((None, -128, 127, 5))),
        extreme=draw(st.sampled_from(("", "", "low", "high"))),
        enclosed=draw(st.sampled_from((True, True, False))),
        seed=draw(st.integers(0, 2**32 - 1)),
        shift=draw(st.sampled_from((0, 0, 0, 1, 4, 9))),
    )

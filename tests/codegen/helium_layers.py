"""Layers drawn by hypothesis for the Helium kernels: convolutions, fully connected, depthwise, Add, pools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from deployq.alphabet import alphabet
from deployq.graph import Graph, Shape
from deployq.ops import FloatOperator
from deployq.ops.add import Add
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.clip import Clip
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.output_stage import Bounds
from deployq.ops.window import Window
from deployq.targets import Target
from tests.integer_networks import NetworkBuilder

#: Helium's kernels in their portable form.
HELIUM = Target("helium", "", "host", "", (), frozenset({"dsp", "mve"}), 4, ())

_LETTERS = (
    "binary",
    "ternary",
    "midrise-2",
    "midtread-2",
    "midrise-3",
    "midrise-4",
    "midtread-4",
    "midrise-6",
    "midtread-7",
    "symmetric-8",
    "midtread-8",
)
_BOUNDS: tuple[Callable[[int], Bounds], ...] = (
    lambda channels: Bounds.none(),
    lambda channels: Bounds(np.array(0.0), np.array(np.inf)),
    lambda channels: Bounds(np.array(-0.03), np.array(0.04)),  # a ratio beyond 0.5: shifted accumulators
    lambda channels: Bounds(-np.linspace(0.1, 1, channels), np.linspace(0.2, 2, channels)),
)


@dataclass(frozen=True)
class HeliumLayer:
    """An operator, alone or between two element-wise ones so that its tensors lie in the arena.

    Attributes:
        op: the operator.
        shape: of its input, or of both.
        letters: name of the alphabet.
        zero_point: of every tensor, or None for the calibrated ones.
        extreme: "low" or "high" where every weight is the lowest or highest.
        enclosed: between two others.
        seed: of the random weights.
    """

    op: FloatOperator = field(repr=False)
    shape: Shape
    letters: str
    zero_point: int | None
    extreme: str
    enclosed: bool
    seed: int

    def graph(self) -> Graph:
        """The layer as an integer graph with random weights."""
        builder = NetworkBuilder(
            np.random.default_rng(self.seed), alphabet(self.letters), self.shape, self.zero_point
        )
        source = builder.add(Clip(-1.5, 2.0), "x") if self.enclosed else "x"
        operands = (source, "x") if isinstance(self.op, Add) else (source,)
        result = builder.add(self.op, *operands, extreme=self.extreme)
        return builder.graph(builder.add(Clip(-1.0, 1.0), result) if self.enclosed else result)


@st.composite
def windows(draw: st.DrawFn) -> tuple[Window, tuple[int, int]]:
    """A window and the size of an image it fits."""
    kernel = draw(st.sampled_from(((3, 3), (3, 3), (1, 1), (1, 3), (3, 1), (2, 2), (5, 5), (4, 1), (4, 6))))
    strides = draw(st.sampled_from(((1, 1), (1, 1), (2, 2), (1, 2), (2, 1), (3, 3), (4, 3))))
    dilations = draw(st.sampled_from(((1, 1), (1, 1), (1, 1), (2, 1), (1, 2), (2, 2))))
    edges = st.integers(0, 3)
    pads = draw(
        st.one_of(st.just((0, 0, 0, 0)), st.just((1, 1, 1, 1)), st.tuples(edges, edges, edges, edges))
    )
    extent = Window(kernel, dilations=dilations).extent
    smallest = [max(1, extent[axis] - pads[axis] - pads[2 + axis]) for axis in range(2)]
    height, width = (draw(st.integers(size, max(size, 10))) for size in smallest)
    return Window(kernel, strides, pads, dilations), (height, width)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[FloatOperator, Shape]:
    """A convolution with four output channels per group or more."""
    window, size = draw(windows())
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    inputs = draw(st.sampled_from((1, 3, 4, 5, 8, 16, 17) if groups == 1 else (2, 3, 8, 17)))
    outputs = draw(st.integers(4, 11))
    weight = np.zeros((groups * outputs, inputs, *window.kernel), np.float32)
    bounds = draw(st.sampled_from(_BOUNDS))(groups * outputs)
    operator = Conv2d(weight, np.zeros(groups * outputs), window, groups, bounds)
    return operator, (groups * inputs, *size)


@st.composite
def depthwise_convolutions(draw: st.DrawFn) -> tuple[FloatOperator, Shape]:
    """One filter per channel, fewer or more channels than a vector has lanes."""
    window, size = draw(windows())
    channels = draw(st.sampled_from((2, 4, 5, 8, 8, 15, 16, 17, 24, 32, 35)))
    bounds = draw(st.sampled_from(_BOUNDS))(channels)
    weight = np.zeros((channels, 1, *window.kernel), np.float32)
    return Conv2d(weight, np.zeros(channels), window, channels, bounds), (channels, *size)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[FloatOperator, Shape]:
    """A fully connected layer."""
    inputs, outputs = draw(st.integers(1, 100)), draw(st.integers(1, 21))
    bounds = draw(st.sampled_from(_BOUNDS))(outputs)
    return Linear(np.zeros((outputs, inputs), np.float32), np.zeros(outputs), bounds), (inputs,)


@st.composite
def _unweighted(draw: st.DrawFn) -> tuple[FloatOperator, Shape]:
    """An addition or an average pool."""
    window, size = draw(windows())
    shape = (draw(st.integers(1, 19)), *size)
    whole = AveragePool2d(Window(size))
    padded = window.pads if max(window.pads) < min(window.extent) else (0, 0, 0, 0)
    inside = Window(window.kernel, window.strides, padded, window.dilations)
    fits = all(size[axis] >= inside.extent[axis] for axis in range(2))
    pool = AveragePool2d(inside, draw(st.booleans())) if fits else whole
    return draw(st.sampled_from((Add(), whole, pool))), shape


_OPERATORS = st.one_of(
    convolutions(), convolutions(), depthwise_convolutions(), matrices(), _unweighted()
)


@st.composite
def helium_layers(
    draw: st.DrawFn, operators: st.SearchStrategy[tuple[FloatOperator, Shape]] = _OPERATORS
) -> HeliumLayer:
    """Layers of operators that have Helium kernels."""
    op, shape = draw(operators)
    if isinstance(op, Linear):
        letters = draw(st.sampled_from((*_LETTERS[1:], "midrise-8")))
    else:
        letters = draw(st.sampled_from(_LETTERS))
    return HeliumLayer(
        op=op,
        shape=shape,
        letters=letters,
        zero_point=draw(st.sampled_from((None, -128, 127, 5))),
        extreme=draw(st.sampled_from(("", "", "low", "high"))),
        enclosed=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
    )

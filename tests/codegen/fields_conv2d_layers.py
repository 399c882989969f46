"""Drawn convolutions for the kernels with four output channels a word of weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from deployq.alphabet import alphabet
from deployq.graph import Graph
from deployq.ops.clip import Clip
from deployq.ops.conv2d import Conv2d, IntegerConv2d
from deployq.ops.linear import IntegerLinear
from deployq.ops.output_stage import Bounds
from deployq.ops.window import Window
from tests.integer_networks import NetworkBuilder

PAIR_ALPHABETS = ("binary", "ternary", "midrise-2", "midtread-2")

_KERNELS = (*((1, 1),) * 6, *((3, 3),) * 3, (1, 3), (2, 1), (2, 2), (5, 5), (10, 4))
_CHANNELS = (1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 8, 11, 12, 16, 16, 20, 32, 33, 64, 100, 136, 200)
BOUNDS: tuple[Callable[[int], Bounds], ...] = (
    lambda channels: Bounds.none(),
    lambda channels: Bounds(np.array(0.0), np.array(np.inf)),
    lambda channels: Bounds(np.array(-0.3), np.array(0.4)),
    lambda channels: Bounds(-np.linspace(0.1, 1, channels), np.linspace(0.2, 2, channels)),
)


@dataclass(frozen=True)
class FieldsLayer:
    """A convolution and what surrounds it.

    Attributes:
        channels: of the input.
        size: (height, width) of the input.
        window: geometry.
        groups: of the convolution.
        out: output channels.
        letters: name of the alphabet.
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
    groups: int
    out: int
    letters: str
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
        builder = NetworkBuilder(rng, alphabet(self.letters), shape, self.zero_point)
        weight = np.zeros((self.out, self.channels // self.groups, *self.window.kernel), np.float32)
        bounds = BOUNDS[self.bounds](self.out)
        conv = Conv2d(weight, np.zeros(self.out), self.window, self.groups, bounds)
        source = builder.add(Clip(-1.5, 2.0), "x") if self.enclosed else "x"
        result = builder.add(conv, source, extreme=self.extreme)
        graph = builder.graph(builder.add(Clip(-1.0, 1.0), result) if self.enclosed else result)
        return shifted(graph, self.shift)


def shifted(graph: Graph, shift: int) -> Graph:
    """The graph with output stages of weighted layers that shift further left and multiply by less.

    Args:
        graph: integer graph.
        shift: so many places more, or as many as keep all sums in 32 bits.
    """
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, IntegerConv2d | IntegerLinear):
            lowest, highest = node.op.accumulation.extremes()
            largest = max(abs(int(lowest.min())), abs(int(highest.max())))
            stage = node.op.accumulation.stage
            more = min(shift, 31 - largest.bit_length() - stage.shift)
            stage = replace(
                stage, shift=stage.shift + more, multiplier=np.maximum(stage.multiplier >> more, 1)
            )
            op = replace(node.op, accumulation=replace(node.op.accumulation, stage=stage))
            node = replace(node, op=op)
        nodes.append(node)
    return graph.with_nodes(tuple(nodes), output=graph.output)


def drawn_layers(seed: int, count: int, letters: Sequence[str] = PAIR_ALPHABETS) -> list[FieldsLayer]:
    """Layers of a seed, all different; hypothesis would start with a batch of the simplest one."""
    generator = random.Random(seed)
    return [_layer(generator, letters) for _ in range(count)]


def rare_layers(names: Sequence[str] = PAIR_ALPHABETS) -> list[FieldsLayer]:
    """Layers that are seldom drawn: one and several chunks of taps, with and without shift and clamps."""
    return [
        FieldsLayer(
            channels=channels,
            size=(kernel, kernel + 2),
            window=_window(kernel),
            groups=groups,
            out=5 * groups,
            letters=letters,
            bounds=bounds,
            zero_point=0,
            extreme="low",
            enclosed=True,
            seed=7,
            shift=shift,
        )
        for letters in names
        for channels, kernel, groups in ((8, 1, 1), (256, 1, 1), (3, 3, 1), (32, 3, 1), (64, 3, 2))
        for bounds, shift in ((0, 0), (0, 2), (3, 0))
    ]


def _window(kernel: int) -> Window:
    """Geometry of a convolution with "same" padding."""
    return Window((kernel, kernel), (1, 1), (kernel // 2,) * 4)


def fields_layers(letters: Sequence[str] = PAIR_ALPHABETS) -> st.SearchStrategy[FieldsLayer]:
    """Any layer of `drawn_layers`."""
    return st.integers(0, 2**32 - 1).map(lambda seed: drawn_layers(seed, 1, letters)[0])


def _layer(draw: random.Random, letters: Sequence[str]) -> FieldsLayer:
    """Any convolution of a small image that is not depthwise, nearly half of them pointwise."""
    kernel = draw.choice(_KERNELS)
    strides = draw.choice(((1, 1), (1, 1), (1, 1), (2, 2), (1, 2), (2, 1), (3, 3)))
    dilations = draw.choice(((1, 1), (1, 1), (1, 1), (2, 1), (1, 2), (2, 2)))
    inner = (kernel[0] // 2, kernel[1] // 2)
    same = (*inner, *inner)
    pads = draw.choice((same, same, (0, 0, 0, 0), tuple(draw.randint(0, 3) for _ in range(4))))
    extent = Window(kernel, dilations=dilations).extent
    smallest = [max(1, extent[axis] - pads[axis] - pads[2 + axis]) for axis in range(2)]
    groups = draw.choice((1, 1, 1, 1, 1, 1, 2, 3))
    per_group = draw.choice(_CHANNELS if groups == 1 else (2, 3, 4, 8))
    return FieldsLayer(
        channels=groups * per_group,
        size=(smallest[0] + draw.randint(0, 8), smallest[1] + draw.randint(0, 8)),
        window=Window(kernel, strides, (pads[0], pads[1], pads[2], pads[3]), dilations),
        groups=groups,
        out=groups * draw.randint(1, 13),
        letters=draw.choice(letters),
        bounds=draw.choice((0, 0, 0, 0, 1, 1, 2, 3)),
        zero_point=draw.choice((None, -128, -128, 127, 5)),
        extreme=draw.choice(("", "", "", "low", "high")),
        enclosed=draw.choice((False, True)),
        seed=draw.randrange(2**32),
        shift=draw.choice((0, 0, 0, 0, 1, 10)),
    )

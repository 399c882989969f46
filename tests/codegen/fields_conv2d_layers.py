"""Drawn convolutions for the kernels with four output channels a word of weights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from deployq.graph import Shape
from deployq.ops.conv2d import Conv2d
from deployq.ops.window import Window
from tests.codegen.weighted_layers import BOUNDS, WeightedLayer

PAIR_ALPHABETS = ("binary", "ternary", "midrise-2", "midtread-2")

_KERNELS = (*((1, 1),) * 6, *((3, 3),) * 3, (1, 3), (2, 1), (2, 2), (5, 5), (10, 4))
_CHANNELS = (1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 8, 11, 12, 16, 16, 20, 32, 33, 64, 100, 136, 200)


@dataclass(frozen=True)
class FieldsLayer(WeightedLayer):
    """A convolution and what surrounds it.

    Attributes:
        channels: of the input.
        size: (height, width) of the input.
        window: geometry.
        groups: of the convolution.
        out: output channels.
    """

    channels: int
    size: tuple[int, int]
    window: Window
    groups: int
    out: int

    @property
    def shape(self) -> Shape:
        return (self.channels, *self.size)

    def operator(self) -> Conv2d:
        weight = np.zeros((self.out, self.channels // self.groups, *self.window.kernel), np.float32)
        return Conv2d(weight, np.zeros(self.out), self.window, self.groups, BOUNDS[self.bounds](self.out))


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
        for channels, kernel, groups in ((16, 1, 1), (256, 1, 1), (3, 3, 1), (32, 3, 1), (64, 3, 2))
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

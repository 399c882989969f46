"""Fully connected layers drawn by hypothesis, alone or between two others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from deployq.graph import Shape
from deployq.ops.linear import Linear
from tests.codegen.weighted_layers import BOUNDS, WeightedLayer
from tests.integer_networks import ALPHABETS

_ALL = tuple(letters.name for letters in ALPHABETS)

#: Ranges of sizes and lists of those at which kernels change: whole blocks and one more or less, long rows.
INPUTS: Sequence[Sequence[int]] = (
    range(1, 71),
    (7, 8, 9, 16, 31, 40, 64, 77, 128, 200, 257, 264, 320, 400, 640),
)
OUTPUTS: Sequence[Sequence[int]] = (range(1, 34), (3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 33))


@dataclass(frozen=True)
class LinearLayer(WeightedLayer):
    """A fully connected layer and what surrounds it.

    Attributes:
        inputs: of the layer.
        outputs: of the layer.
    """

    inputs: int
    outputs: int

    @property
    def shape(self) -> Shape:
        return (self.inputs,)

    def operator(self) -> Linear:
        weight = np.zeros((self.outputs, self.inputs), np.float32)
        return Linear(weight, np.zeros(self.outputs), BOUNDS[self.bounds](self.outputs))


def linear_layers(
    letters: Sequence[str] = _ALL,
    inputs: Sequence[Sequence[int]] = INPUTS,
    outputs: Sequence[Sequence[int]] = OUTPUTS,
) -> st.SearchStrategy[LinearLayer]:
    """Layers of these alphabets whose sizes are in one of these ranges or lists."""
    seeds = st.integers(0, 2**32 - 1)
    return seeds.map(lambda seed: _layer(random.Random(seed), letters, inputs, outputs))


def _layer(
    draw: random.Random,
    letters: Sequence[str],
    inputs: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
) -> LinearLayer:
    return LinearLayer(
        inputs=draw.choice(draw.choice(inputs)),
        outputs=draw.choice(draw.choice(outputs)),
        letters=draw.choice(letters),
        bounds=draw.choice((0, 0, 0, *range(len(BOUNDS)))),
        zero_point=draw.choice((None, -128, 127, 5)),
        extreme=draw.choice(("", "", "low", "high")),
        enclosed=draw.choice((False, True)),
        seed=draw.randrange(2**32),
        shift=draw.choice((0, 0, 0, 1, 3, 9)),
    )

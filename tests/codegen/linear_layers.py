"""Fully connected layers drawn by hypothesis, alone or between two others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from deployq.alphabet import alphabet
from deployq.graph import Graph
from deployq.ops.clip import Clip
from deployq.ops.linear import Linear
from tests.codegen.fields_conv2d_layers import BOUNDS, shifted
from tests.integer_networks import ALPHABETS, NetworkBuilder

_ALL = tuple(letters.name for letters in ALPHABETS)

#: Ranges of sizes and lists of those at which kernels change: whole blocks and one more or less, long rows.
INPUTS: Sequence[Sequence[int]] = (
    range(1, 71),
    (7, 8, 9, 16, 31, 40, 64, 77, 128, 200, 257, 264, 320, 400, 640),
)
OUTPUTS: Sequence[Sequence[int]] = (range(1, 34), (3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 33))


@dataclass(frozen=True)
class LinearLayer:
    """A fully connected layer and what surrounds it.

    Attributes:
        inputs: of the layer.
        outputs: of the layer.
        letters: name of the alphabet.
        bounds: index into the kinds of clamps.
        zero_point: of every tensor, or None for the calibrated ones.
        extreme: "low" or "high" where every weight is the lowest or highest.
        enclosed: between two element-wise layers, so that its input and output lie in the arena.
        seed: of the random weights.
        shift: left shift of the output stage beyond the usual one, see `shifted`.
    """

    inputs: int
    outputs: int
    letters: str
    bounds: int = 0
    zero_point: int | None = None
    extreme: str = ""
    enclosed: bool = False
    seed: int = 0
    shift: int = 0

    def graph(self) -> Graph:
        """The layer as an integer graph with random weights."""
        rng = np.random.default_rng(self.seed)
        builder = NetworkBuilder(rng, alphabet(self.letters), (self.inputs,), self.zero_point)
        weight = np.zeros((self.outputs, self.inputs), np.float32)
        op = Linear(weight, np.zeros(self.outputs), BOUNDS[self.bounds](self.outputs))
        source = builder.add(Clip(-1.5, 2.0), "x") if self.enclosed else "x"
        result = builder.add(op, source, extreme=self.extreme)
        graph = builder.graph(builder.add(Clip(-1.0, 1.0), result) if self.enclosed else result)
        return shifted(graph, self.shift)


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

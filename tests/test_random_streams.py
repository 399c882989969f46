"""No two uses of random numbers share a stream, whatever the seed."""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import deployq
from deployq.random_streams import Purpose, stream


def test_streams_repeat() -> None:
    first, second = (stream(Purpose.POSITIONS, 5, 1, 2).random(8) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_no_two_streams_are_equal() -> None:
    """Arguments that numpy's own seeds confuse: trailing zeros, large numbers that fill two words."""
    numbers = (0, 1, 2**32, 2**63 - 1)
    arguments = [item for count in (1, 2, 3) for item in product(numbers, repeat=count)]
    found = {stream(purpose, *item).random(2).tobytes() for purpose in Purpose for item in arguments}
    assert len(found) == len(Purpose) * len(arguments)
    confused = {np.random.default_rng(list(item)).random(2).tobytes() for item in arguments}
    assert len(confused) < len(arguments), "then this module is not needed"


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="seed or an index"):
        stream(Purpose.POSITIONS, 0, number)


def test_generators_are_made_in_one_place() -> None:
    """Operators make their test cases from fixed numbers, which no seed of a user reaches."""
    root = Path(deployq.__file__).parent
    makers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in ("default_rng", "SeedSequence", "RandomState", "seed")
        if isinstance(node.value, ast.Attribute) and node.value.attr == "random"
    }
    assert makers <= {"random_streams.py", "ops/conv2d.py", "ops/linear.py"}


def test_stochastic_rounding_and_positions_of_a_layer_are_drawn_independently() -> None:
    """They were the same: [seed, layer] and [seed, layer, chunk] with chunk 0 are one seed to numpy."""
    rounding = stream(Purpose.STOCHASTIC_ROUNDING, 3, 1).random(1000)
    positions = stream(Purpose.POSITIONS, 3, 1, 0).random(1000)
    assert abs(np.corrcoef(rounding, positions)[0, 1]) < 0.15

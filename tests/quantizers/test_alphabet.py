import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.alphabet import Alphabet, alphabet, default_alphabet
from deployq.errors import UsageError
from tests.quantizers.layers import nearest_by_search

NAMES = (
    "binary",
    "ternary",
    *(f"midrise-{bits}" for bits in range(1, 9)),
    *(f"{family}-{bits}" for family in ("midtread", "symmetric") for bits in range(2, 9)),
)
VALUES = {
    "binary": [-1, 1],
    "ternary": [-1, 0, 1],
    "midrise-2": [-3, -1, 1, 3],
    "midrise-3": [-7, -5, -3, -1, 1, 3, 5, 7],
    "midtread-2": [-2, -1, 0, 1],
    "midtread-3": [-4, -3, -2, -1, 0, 1, 2, 3],
    "symmetric-2": [-1, 0, 1],
    "symmetric-3": [-3, -2, -1, 0, 1, 2, 3],
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    assert alphabet(name).values.tolist() == VALUES[name]


@pytest.mark.parametrize("name", NAMES)
def test_codes_round_trip_and_fit_their_bits(name: str) -> None:
    levels = alphabet(name)
    codes = levels.encode(levels.values)
    assert codes.tolist() == list(range(levels.levels))
    assert levels.decode(codes).tolist() == levels.values.tolist()
    assert levels.levels <= 2**levels.bits
    assert levels.largest == np.abs(levels.values).max()
    assert abs(levels.values[levels.neutral_code]) == np.abs(levels.values).min()


@pytest.mark.parametrize(
    ("name", "value"), [("binary", 0), ("binary", 3), ("midtread-3", 4), ("symmetric-8", -128)]
)
def test_a_value_outside_the_alphabet_has_no_code(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        alphabet(name).encode(np.array([value]))


@given(st.sampled_from(NAMES), st.lists(st.floats(-300, 300), min_size=1, max_size=20))
def test_nearest_is_the_nearest(name: str, values: list[float]) -> None:
    levels, array = alphabet(name), np.array(values)
    found = levels.nearest(array)
    best = nearest_by_search(array, levels)
    # A value within rounding of the middle of two levels may go either way.
    assert np.all(np.abs(np.abs(array - found) - np.abs(array - best)) < 1e-12)
    assert set(found) <= set(levels.values.tolist())


@pytest.mark.parametrize(
    ("name", "value", "level"), [("binary", 0.0, 1), ("ternary", -0.5, 0), ("midtread-3", 2.5, 3)]
)
def test_ties_go_upwards(name: str, value: float, level: int) -> None:
    assert alphabet(name).nearest(np.array([value])).tolist() == [level]


def test_nearest_keeps_the_precision() -> None:
    assert alphabet("ternary").nearest(np.zeros(3, dtype=np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    "name", ["", "octal", "midrise", "midrise-9", "midtread-1", "symmetric-1", "binary-1"]
)
def test_unknown_names_are_usage_errors(name: str) -> None:
    with pytest.raises(UsageError, match="unknown alphabet"):
        alphabet(name)


def test_defaults_by_width() -> None:
    chosen = [default_alphabet(bits).name for bits in ("1", "ternary", "2", "3", "7", "8")]
    assert chosen == ["binary", "ternary", "midrise-2", "midrise-3", "midtread-7", "symmetric-8"]
    assert isinstance(default_alphabet("4"), Alphabet)
    with pytest.raises(UsageError, match="unknown weight width"):
        default_alphabet("9")

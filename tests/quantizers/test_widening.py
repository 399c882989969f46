import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.errors import ModelError
from deployq.quantizers.widening import widened


@pytest.mark.parametrize(
    ("name", "low", "high", "found"),
    [
        ("binary", -1, 1, "binary"),
        ("binary", -1, 3, "midrise-2"),
        ("midrise-4", -1, 1, "binary"),
        ("midrise-2", -255, 3, "midrise-8"),
        ("ternary", 0, 0, "ternary"),
        ("ternary", -1, 1, "ternary"),
        ("midtread-2", -2, 1, "midtread-2"),
        ("midtread-2", -2, 2, "symmetric-3"),
        ("symmetric-4", -8, 3, "midtread-4"),
        ("ternary", -128, 127, "midtread-8"),
    ],
)
def test_the_smallest_alphabet_of_the_same_step(name: str, low: int, high: int, found: str) -> None:
    assert widened(alphabet(name), np.array([[low, high]], dtype=np.float64)).name == found


@pytest.mark.parametrize("name", ["binary", "ternary", "midrise-3", "midtread-5"])
def test_it_has_the_levels(name: str) -> None:
    letters = alphabet(name)
    levels = letters.offset + letters.step * np.random.default_rng(0).integers(-30, 30, size=50)
    found = widened(letters, levels.astype(np.float64))
    assert np.isin(levels, found.values).all()
    assert found.bits == 1 or max(abs(levels)) > letters.step * 2 ** (found.bits - 2) - 1


@pytest.mark.parametrize(
    ("name", "low", "high", "bits"),
    [
        ("ternary", -1, 128, 9),
        ("ternary", -129, 0, 9),
        ("ternary", -256, 255, 9),
        ("ternary", -1, 256, 10),
        ("binary", -255, 257, 9),
        ("binary", -511, 511, 9),
        ("binary", -513, 1, 10),
        ("midtread-4", 0, 100000, 18),
    ],
)
def test_levels_that_need_more_than_eight_bits(name: str, low: int, high: int, bits: int) -> None:
    with pytest.raises(ModelError, match=f"need {bits} bits"):
        widened(alphabet(name), np.array([low, high], dtype=np.float64))

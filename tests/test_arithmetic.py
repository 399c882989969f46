"""The integer contract against unbounded Python integers, on boundary values and at random."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.arithmetic import (
    INT32_MAX,
    INT32_MIN,
    accumulator_extremes,
    add_rescale,
    requantization,
    requantize,
    rescale_add,
    round_half_up,
    signed_bits,
)


def exact_requantize(accumulator: int, multiplier: int, shift: int, zero: int, low: int, high: int) -> int:
    """The formula of the contract, word for word, in exact arithmetic."""
    value = zero + floor(Fraction(accumulator * 2**shift * multiplier + 2**31, 2**32))
    return min(max(value, low), high)


BOUNDARIES = sorted({0, 1, -1, 2**30, -(2**30), INT32_MAX, INT32_MIN + 1, 127, -128, 2**15, 12345678})
MULTIPLIERS = [1, 2, 2**30, 2**31 - 1, 2**31 - 2, 3 * 2**28 + 1]


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
@pytest.mark.parametrize("zero", [-128, 0, 127])
def test_requantize_on_boundaries(multiplier: int, zero: int) -> None:
    found = requantize(np.array(BOUNDARIES), np.array(multiplier), 0, zero, -128, 127)
    assert found.tolist() == [exact_requantize(value, multiplier, 0, zero, -128, 127) for value in BOUNDARIES]


def test_requantize_rounds_ties_up() -> None:
    # acc * 2^30 / 2^32 = acc / 4: the accumulators are ties; one unit of the multiplier less is below them.
    ties = np.array([-6, -2, 2, 6])
    assert requantize(ties, np.array(2**30), 0, 0, -128, 127).tolist() == [-1, 0, 1, 2]
    assert requantize(ties, np.array(2**30 - 1), 0, 0, -128, 127).tolist() == [-1, 0, 0, 1]


@given(
    st.integers(-(2**31) + 1, 2**31 - 1),
    st.integers(1, 2**31 - 1),
    st.integers(0, 8),
    st.integers(-128, 127),
    st.integers(-128, 127),
    st.integers(-128, 127),
)
def test_requantize_is_the_contract(
    accumulator: int, multiplier: int, shift: int, zero: int, first: int, second: int
) -> None:
    accumulator >>= shift
    low, high = sorted((first, second))
    found = requantize(np.array([accumulator]), np.array([multiplier]), shift, zero, low, high)
    assert found[0] == exact_requantize(accumulator, multiplier, shift, zero, low, high)


@given(st.lists(st.floats(1e-9, 1000), min_size=1, max_size=5))
def test_requantization_represents_the_ratio(ratios: list[float]) -> None:
    chosen = requantization(ratios)
    assert chosen.multiplier.min() >= 1 and chosen.multiplier.max() <= INT32_MAX
    represented = chosen.multiplier * 2.0 ** (chosen.shift - 32)
    assert np.all(np.abs(represented - ratios) <= 2.0 ** (chosen.shift - 32))
    assert chosen.shift == 0 or max(ratios) >= 0.4999999


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf"), 2.0**23])
def test_requantization_refuses(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        requantization([ratio])


@given(st.floats(1e-3, 100), st.floats(1e-3, 100), st.integers(-255, 255), st.integers(-255, 255))
def test_rescale_add_stays_in_int32_and_is_accurate(first: float, second: float, a: int, b: int) -> None:
    rescale = add_rescale(first, second)
    total = a * rescale.multipliers[0] + b * rescale.multipliers[1] + (1 << (rescale.shift - 1))
    assert INT32_MIN <= total <= INT32_MAX
    found = int(rescale_add(np.array([a]), np.array([b]), rescale, 0, -128, 127)[0])
    exact = min(max(a * first + b * second, -128), 127)
    assert abs(found - exact) <= 0.5 + 510 * max(first, second) * 2.0**-20
    assert found == min(max(total >> rescale.shift, -128), 127)


def test_rescale_add_rounds_ties_up() -> None:
    rescale = add_rescale(0.5, 0.5)
    odd = np.array([-3, -1, 1, 3])
    assert rescale_add(odd, np.zeros(4, dtype=int), rescale, 0, -128, 127).tolist() == [-1, 0, 1, 2]


@given(st.integers(-128, 127), st.lists(st.integers(-8, 7), min_size=1, max_size=6), st.integers(-1000, 1000))
def test_accumulator_extremes_bound_every_partial_sum(zero: int, weights: list[int], bias: int) -> None:
    lowest, highest = accumulator_extremes(np.array([weights]), zero, np.array([bias]))
    largest = sum(max((x - zero) * w for x in (-128, 127)) for w in weights)
    assert highest[0] >= largest + bias
    partial = bias
    for weight in weights:
        partial += max(((x - zero) * weight for x in (-128, 127)), key=abs)
        assert lowest[0] <= partial <= highest[0]


def test_accumulator_extremes_are_reached() -> None:
    lowest, highest = accumulator_extremes(np.array([[1, -1]]), 0, np.array([0]))
    assert (lowest[0], highest[0]) == (-128 - 127, 127 + 128)


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(-1, 0, 1), (0, 1, 2), (-128, 127, 8), (-129, 0, 9), (0, 128, 9), (-(2**31), 0, 32)],
)
def test_signed_bits(low: int, high: int, bits: int) -> None:
    assert signed_bits(low, high) == bits


def test_round_half_up() -> None:
    assert round_half_up([-1.5, -0.5, 0.49, 0.5, 2.5]).tolist() == [-1, 0, 0, 1, 3]


@pytest.mark.parametrize("ratio", [2.0**21, 2.0**22, 2.0**31, 2.0**40, 1e300])
def test_a_huge_ratio_is_refused_not_wrapped(ratio: float) -> None:
    with pytest.raises(ValueError, match="too large"):
        requantization([0.5, ratio])

"""The integer semantics of deployq. Every executor implements what stands here.

This is the only place in Python where rounding is written. The C macros in `templates/` and the
ONNX op sequences are tested against these functions on boundary values.

Contract (all integers, `floor` towards minus infinity):

- requantize:  ``y = clamp(zero_point + floor((acc * 2^shift * multiplier + 2^31) / 2^32), low, high)``
- rescale-add: ``y = clamp(zero_point + floor((a * m_a + b * m_b + 2^(shift-1)) / 2^shift), low, high)``
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.float64]

INT8_MIN, INT8_MAX = -128, 127
INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

#: Largest integer below which every integer is exact in float32 / float64 arithmetic.
FLOAT32_EXACT, FLOAT64_EXACT = 2**24, 2**53

#: Bits of precision asked of the multipliers of `rescale_add`; (255 * 2^22) * 2 stays below 2^31.
_ADD_MULTIPLIER_BITS = 21


def round_half_up(value: npt.ArrayLike) -> Int64Array:
    """Round to the nearest integer, ties towards plus infinity: floor(value + 0.5)."""
    return np.floor(np.asarray(value, dtype=np.float64) + 0.5).astype(np.int64)


def saturate(value: IntArray, low: npt.ArrayLike, high: npt.ArrayLike) -> Int64Array:
    """Clamp integers to [low, high]; the bounds broadcast against `value`."""
    return np.minimum(np.maximum(value.astype(np.int64), low), high)


@dataclass(frozen=True)
class Requantization:
    """Multipliers of one layer: real ratio of channel c = multiplier[c] * 2^(shift - 32).

    Attributes:
        multiplier: int64 array (channels,), each in 1 .. 2^31 - 1.
        shift: left shift n >= 0 of the accumulator; 0 unless a ratio reaches 0.5.
    """

    multiplier: Int64Array
    shift: int


def requantization(ratio: npt.ArrayLike) -> Requantization:
    """Choose multiplier and shift for real ratios input_scale * weight_scale / output_scale.

    Args:
        ratio: positive finite ratios, shape (channels,).

    Raises:
        ValueError: a ratio is not positive and finite, or 2^21 or more.
    """
    ratios = np.atleast_1d(np.asarray(ratio, dtype=np.float64))
    if not np.all(np.isfinite(ratios)) or np.any(ratios <= 0):
        raise ValueError("requantization ratios must be positive and finite")
    for shift in range(23):
        # Compared as a float: a huge ratio does not even fit int64.
        if ratios.max() < (INT32_MAX + 0.5) / 2.0 ** (32 - shift):
            return Requantization(np.maximum(round_half_up(ratios * 2.0 ** (32 - shift)), 1), shift)
    raise ValueError(f"requantization ratio {ratios.max():g} is too large")


def requantize(
    accumulator: IntArray,
    multiplier: IntArray,
    shift: int,
    zero_point: int,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
) -> npt.NDArray[np.int8]:
    """The contract's requantization; arguments broadcast.

    Args:
        accumulator: integers with |accumulator| * 2^shift < 2^31.
        multiplier: integers in 1 .. 2^31 - 1.
        shift: left shift of the accumulator, >= 0.
        zero_point: zero point of the output.
        low: lower clamp, within int8.
        high: upper clamp, within int8.
    """
    product = (accumulator.astype(np.int64) << shift) * multiplier.astype(np.int64)
    rounded = (product + 2**31) >> 32
    return saturate(rounded + zero_point, low, high).astype(np.int8)


@dataclass(frozen=True)
class AddRescale:
    """Integer multipliers of an addition: ratio of operand i = multipliers[i] / 2^shift."""

    multipliers: tuple[int, int]
    shift: int


def add_rescale(first_ratio: float, second_ratio: float) -> AddRescale:
    """Multipliers for ratios input_scale / output_scale, so that the sum stays in int32.

    Raises:
        ValueError: a ratio is not positive and finite, or 2^20 or more.
    """
    largest = max(first_ratio, second_ratio)
    if not np.isfinite(largest) or min(first_ratio, second_ratio) <= 0 or largest >= 2**20:
        raise ValueError(f"addition ratios {first_ratio:g}, {second_ratio:g} are out of range")
    exponent = int(np.floor(np.log2(largest)))
    shift = min(_ADD_MULTIPLIER_BITS - 1 - exponent, 30)
    first, second = round_half_up([first_ratio * 2.0**shift, second_ratio * 2.0**shift])
    return AddRescale((int(first), int(second)), shift)


def rescale_add(
    first: IntArray, second: IntArray, rescale: AddRescale, zero_point: int, low: int, high: int
) -> npt.NDArray[np.int8]:
    """The contract's addition of two zero-point-free operands (each within +-255)."""
    total = first.astype(np.int64) * rescale.multipliers[0] + second.astype(np.int64) * rescale.multipliers[1]
    rounded = (total + (1 << (rescale.shift - 1))) >> rescale.shift
    return saturate(rounded + zero_point, low, high).astype(np.int8)


def accumulator_extremes(weights: IntArray, zero_point: int, bias: IntArray) -> tuple[Int64Array, Int64Array]:
    """Lowest and highest value any partial sum of sum((x - z) * w) + b can take, per channel.

    Every order of summation is covered: the positive terms alone reach the upper bound, the
    negative terms alone the lower one.

    Args:
        weights: integers (channels, taps).
        zero_point: zero point z of x; x runs over int8.
        bias: integers (channels,).

    Returns:
        (lowest, highest), each int64 of shape (channels,).
    """
    flat = weights.reshape(weights.shape[0], -1).astype(np.int64)
    positive = np.maximum(flat, 0).sum(axis=1)
    negative = np.maximum(-flat, 0).sum(axis=1)
    up, down = INT8_MAX - zero_point, zero_point - INT8_MIN
    highest = positive * up + negative * down + np.maximum(bias, 0)
    lowest = -(positive * down + negative * up) + np.minimum(bias, 0)
    return lowest, highest


def signed_bits(lowest: int, highest: int) -> int:
    """Width in bits of the smallest two's complement integer holding [lowest, highest]."""
    return max(int(highest).bit_length(), int(-lowest - 1).bit_length() if lowest < 0 else 0) + 1


def fits_lanes(weights: IntArray, chunk: int) -> bool:
    """Whether sum(x * w) over each chunk of taps stays in a signed 16-bit lane, for every x of int8.

    Two lanes share a word, second * 2^16 + first modulo 2^32. Partial sums may wrap; the two results
    can be told apart exactly if both fit, which is what this proves.

    Args:
        weights: integers (channels, taps).
        chunk: taps summed in a lane; the last chunk may be shorter.
    """
    flat = weights.reshape(weights.shape[0], -1)
    nothing = np.zeros(len(flat), np.int64)
    for begin in range(0, flat.shape[1], chunk):
        lowest, highest = accumulator_extremes(flat[:, begin : begin + chunk], 0, nothing)
        if lowest.min() < INT16_MIN or highest.max() > INT16_MAX:
            return False
    return True


@dataclass(frozen=True)
class SumRequantization:
    """Requantization of sums of few bits by two 32-bit products.

    With x = sum + 2^(bits - 1), r = 32 - bits, h = ceil(multiplier * 2^shift / 2^r) and
    l = h * 2^r - multiplier * 2^shift: ``t = addend + x * h``, ``y = -128`` where t < 0, else
    ``y = min((t - floor(x * l / 2^r)) >> bits, 255) - 128``, and -128 where that difference is negative.

    Attributes:
        addend: int64 array (channels,), modulo 2^32 in int32; all t fit int32 without wrapping, and are
            some margin above the least one.
        multiplier: int64 array (channels,), each in 1 .. 2^31 - 1.
    """

    addend: Int64Array
    multiplier: Int64Array


#: Values of an int8 output above the lowest one.
_OUTPUT_STEPS = np.arange(1, 256, dtype=np.int64)

#: Changes of a multiplier that are tried where none of its addends will do, the smallest first.
_MULTIPLIER_CHANGES = (0, *(sign << bit for bit in range(21) for sign in (1, -1)))


def sum_requantization(
    sums: tuple[IntArray, IntArray],
    bits: int,
    bias: IntArray,
    exact: Requantization,
    zero_point: int,
    *,
    margin: int = 0,
) -> SumRequantization | None:
    """Constants that give the contract's requantization of every sum of each channel, clamped to int8.

    The exact output is a staircase in the sum. An output of the form above is one, too; it is the same if
    it has the same edges, which leaves an interval of addends for a multiplier.

    Args:
        sums: the least and the most of each channel, which fit `bits` bits; the accumulator is bias + sum.
        bits: of a sum, in two's complement, 2 to 31.
        bias: per channel.
        exact: multipliers, one per channel, and shift, below 32 - bits.
        zero_point: of the output.
        margin: between every t and the least int32, so that so much can be subtracted.

    Returns:
        The constants; None where some channel has none.
    """
    half = 1 << (bits - 1)
    first, last = (bound.astype(np.int64) + half for bound in sums)
    factor = exact.multiplier << exact.shift
    start = (bias.astype(np.int64) - half) * factor + 2**31 + ((zero_point - INT8_MIN) << 32)
    # x from which on the output is some steps above its lowest value.
    edges = -((start[:, np.newaxis] - (_OUTPUT_STEPS << 32)) // factor[:, np.newaxis])
    addend, multiplier = np.zeros(len(start), np.int64), np.zeros(len(start), np.int64)
    # The last one is for channels with one edge, which it puts anywhere, but with a tiny multiplier.
    tried = [exact.multiplier + change for change in _MULTIPLIER_CHANGES]
    for changed in (*tried, np.full(len(start), 1 << (32 - bits - exact.shift))):
        if multiplier.all():
            break
        low, high = _addends(first, last, edges, changed << exact.shift, 32 - bits, margin)
        found = (low <= high) & (changed > 0) & (changed <= INT32_MAX) & (multiplier == 0)
        addend = np.where(found, np.clip(start >> (32 - bits), low, high), addend)
        multiplier = np.where(found, changed, multiplier)
    wrapped = (addend - INT32_MIN) % 2**32 + INT32_MIN
    return SumRequantization(wrapped, multiplier) if multiplier.all() else None


def _addends(
    first: Int64Array, last: Int64Array, edges: Int64Array, multiplier: Int64Array, rest: int, margin: int
) -> tuple[Int64Array, Int64Array]:
    """Lowest and highest addend per channel that put the steps of the output at `edges`.

    The output reaches step k where x * multiplier + addend * 2^rest + 2^rest - 1 reaches k * 2^32.

    Args:
        first: lowest x per channel.
        last: highest x.
        edges: x from which on the output is 1, 2 .. 255 steps above its lowest value (channels, 255).
        multiplier: that is tried, shift included.
        rest: bits of its low part.
        margin: see `sum_requantization`.
    """
    first, last, factor = first[:, np.newaxis], last[:, np.newaxis], multiplier[:, np.newaxis]

    def reaching(x: Int64Array) -> Int64Array:
        """The least addend with which each step is reached at x: ceil((k 2^32 - x m + 1) / 2^rest) - 1."""
        return (_OUTPUT_STEPS << (32 - rest)) - 1 - ((x * factor - 1) >> rest)

    steep = -(-factor // (1 << rest))
    lowest, highest = INT32_MIN + margin - first * steep, INT32_MAX - last * steep
    at_edge = np.where(edges <= last, reaching(np.clip(edges, first, last)), lowest)
    before_edge = np.where(edges > first, reaching(np.clip(edges, first + 1, last + 1) - 1) - 1, highest)
    return np.maximum(at_edge, lowest).max(axis=1), np.minimum(before_edge, highest).min(axis=1)


def multiplier_split(lowest: int, highest: int, multiplier: int, zero_point: int) -> int | None:
    """The bit at which 32-bit products suffice to requantize accumulators in [lowest, highest].

    With multiplier = h * 2^s + l, floor((acc * multiplier + 2^31) / 2^32) + zero_point is
    ``(acc * h + ((acc * l) >> s) + (1 + 2 * zero_point) * 2^(31 - s)) >> (32 - s)``, because dropping
    the low bits of a sum with a multiple of 2^s rounds down either way. Every term is proven to fit int32.

    Args:
        lowest: accumulator, at least.
        highest: accumulator, at most.
        multiplier: the largest of the layer, in 1 .. 2^31 - 1.
        zero_point: of the output.

    Returns:
        s in 1 .. 30, or None where no split fits.
    """
    largest = max(abs(lowest), abs(highest))
    for split in range(30, 0, -1):
        low_product = largest * ((1 << split) - 1)
        high_product = largest * (multiplier >> split) + (low_product >> split) + 1
        if max(low_product, high_product + (abs(1 + 2 * zero_point) << (31 - split))) <= INT32_MAX:
            return split
    return None

"""What the depthwise kernels for cores without DSP compute: weights, biases and multipliers, proven exact.

On Armv7-M a left shift of the output stage is done to the weights and biases beforehand, where they still
fit. On Armv6-M the stage has constants of its own, which do without the shift and put the bias behind the
multiplication, so that the bias of a channel may be enormous. Where a channel has no such constants, sums
with their biases have to fit lanes, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployq.arithmetic import (
    INT8_MAX,
    INT8_MIN,
    INT16_MAX,
    INT16_MIN,
    INT32_MAX,
    INT32_MIN,
    Requantization,
    accumulator_extremes,
    fits_lanes,
    sum_requantization,
)
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.weighted import ConvolutionLayer
from deployq.ops.base import Array

#: Bits of a lane, and of the low half of a multiplier.
_HALF_BITS = 16

#: What is subtracted from a product of 32 bits at most: what makes the least output 0, and a low product.
_MARGIN = (-INT8_MIN << _HALF_BITS) + 2**_HALF_BITS


@dataclass(frozen=True)
class Form:
    """What a kernel computes.

    Attributes:
        pairing: what a word holds, "neighbours", "halves" or "singles".
        folded: left shift of the weights and biases beforehand.
        shift: of the sums to the left, for the kernel.
        shifted: the kernel is the one that shifts sums; that for "singles" always does.
        bias: int64 (channels,), or addends that contain it, see `_addends`.
        multiplier: int64 (channels,).
    """

    pairing: str
    folded: int
    shift: int
    shifted: bool
    bias: Array
    multiplier: Array


def find_form(layer: ConvolutionLayer, core: Core) -> Form | None:
    """The first possible form that is proven; None without one, or where the stage clamps otherwise."""
    stage = layer.accumulation.stage
    if stage.per_channel_clamp or (int(stage.low.min()), int(stage.high.max())) != (INT8_MIN, INT8_MAX):
        return None
    bias = layer.accumulation.folded_bias.astype(np.int64)
    multiplier = np.broadcast_to(stage.multiplier, bias.shape).astype(np.int64)
    if "armv7m" not in core.features:
        return _addends(layer, bias, multiplier) or _biases(layer, bias, multiplier)
    for pairing in ("neighbours", "singles"):
        # All of the shift is folded, or nothing.
        for folded in (0,) if pairing == "singles" else (stage.shift, 0):
            if _proven(layer, pairing, folded):
                rest = stage.shift - folded
                shifted = pairing != "singles" and rest > 0
                return Form(pairing, folded, rest, shifted, bias << folded, multiplier)
    return None


def _proven(layer: ConvolutionLayer, pairing: str, folded: int) -> bool:
    """Whether all sums fit lanes, and all products of the requantization the registers of Armv7-M.

    Args:
        layer: with 3x3 windows.
        pairing: of pixels. Lanes plus 2^15 times the multiplier are added to the bias times the multiplier,
            all of 32 bits; so are single sums.
        folded: left shift of the weights and biases; the stage shifts by the rest.
    """
    rest = layer.accumulation.stage.shift - folded
    bias = int(np.abs(layer.accumulation.folded_bias << folded).max())
    if pairing == "singles":
        lowest, highest = _sums(layer)
        return max(bias, -int(lowest.min()), int(highest.max())) << rest <= INT32_MAX
    rows = layer.rows.astype(np.int64) << folded
    return fits_lanes(rows, layer.taps) and max(bias - INT16_MIN, 2**_HALF_BITS) << rest <= INT32_MAX


def _sums(layer: ConvolutionLayer) -> tuple[Array, Array]:
    """The least and the most of the sums of weight * x of each channel."""
    return accumulator_extremes(layer.rows, 0, np.zeros(len(layer.rows), np.int64))


def _addends(layer: ConvolutionLayer, bias: Array, multiplier: Array) -> Form | None:
    """Halves whose lanes are sums without their biases; None where a channel has no constants.

    With x = sum + 2^15 and multiplier * 2^shift = 2^16 * high - low, an output is
    (addend + x * high - (x * low >> 16)) >> 16, saturated. The kernel gets negative multipliers.
    """
    stage, sums = layer.accumulation.stage, _sums(layer)
    if not _fit_lane(*sums) or stage.shift >= _HALF_BITS:
        return None
    base = INT8_MIN << _HALF_BITS
    exact = Requantization(multiplier, stage.shift)
    found = sum_requantization(sums, _HALF_BITS, bias, exact, stage.zero_point, margin=_MARGIN)
    if found is None:
        return None
    addends = (found.addend + base - INT32_MIN) % 2**32 + INT32_MIN
    return Form("halves", 0, stage.shift, False, addends, -found.multiplier)


def _biases(layer: ConvolutionLayer, bias: Array, multiplier: Array) -> Form | None:
    """Halves whose lanes are sums with their biases; None where they do not fit.

    The multiplier is used in parts of 16 bits, whose products with a lane fit 32 bits.
    """
    stage, (lowest, highest) = layer.accumulation.stage, _sums(layer)
    if not _fit_lane(lowest + bias, highest + bias) or stage.shift >= _HALF_BITS:
        return None
    # Words hold activations that are not negative.
    bias = bias + INT8_MIN * layer.rows.astype(np.int64).sum(axis=1)
    return Form("halves", 0, stage.shift, True, bias, multiplier)


def _fit_lane(lowest: Array, highest: Array) -> bool:
    return int(lowest.min()) >= INT16_MIN and int(highest.max()) <= INT16_MAX

"""Rounding and clamping to codes with a gradient that passes straight through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: A bound of an output stage: one for all channels, or a tensor that broadcasts against the batch.
Bound = float | Tensor


def rounded(real: Tensor) -> Tensor:
    """Half up, into a new tensor."""
    return real.add(0.5).floor_()


def _codes(real: Tensor, low: Bound, high: Bound) -> Tensor:
    """Codes of real values; low and high are integers."""
    return torch.clamp_(rounded(real), low, high)  # type: ignore[arg-type]


def _inside(gradient: Tensor, real: Tensor, low: Bound, high: Bound) -> Tensor:
    """The gradient where `real` lies strictly between the bounds, zero elsewhere."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return gradient * ((real > low) & (real < high))
    return torch.ops.aten.hardtanh_backward(gradient, real, low, high)  # type: ignore[no-any-return]


class Requantize(torch.autograd.Function):
    """Real values, in units of the output's codes, to codes."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, low: Bound, high: Bound) -> Tensor:
        """Codes of the same shape."""
        ctx.save_for_backward(real)
        ctx.bounds = low, high
        return _codes(real, low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Straight through inside the bounds."""
        return _inside(gradient, *ctx.saved_tensors, *ctx.bounds), None, None


class AffineRequantize(torch.autograd.Function):
    """sum * gain + offset, to codes: the output stage of a weighted layer.

    One function instead of a chain of torch's own, as this is where a step spends its time beside
    the convolutions: nothing is kept but the real values, and `gain` and `offset`, one per channel,
    get their gradients from two reductions.
    """

    @staticmethod
    def forward(ctx: Any, summed: Tensor, gain: Tensor, offset: Tensor, low: Bound, high: Bound) -> Tensor:
        """Codes (n, channels, ...) of as many sums; gain and offset are (1, channels, ...)."""
        real = torch.addcmul(offset, summed, gain)
        ctx.save_for_backward(real, gain, offset)
        ctx.bounds = low, high
        return _codes(real, low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        """Straight through inside the bounds."""
        real, gain, offset = ctx.saved_tensors
        inside = _inside(gradient, real, *ctx.bounds)
        others = [axis for axis in range(real.ndim) if axis != 1]
        to_offset = inside.sum(dim=others, keepdim=True)
        # sum * gain = real - offset
        to_gain = ((inside * real).sum(dim=others, keepdim=True) - offset * to_offset) / gain
        to_sum = inside * gain if ctx.needs_input_grad[0] else None
        return to_sum, to_gain, to_offset, None, None

"""Convolution and pooling of a `Window` in torch, for values centred on zero (padding is zero)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deployq.ops.window import Window


def convolve(
    batch: Tensor, weight: Tensor, window: Window, groups: int, bias: Tensor | None = None
) -> Tensor:
    """Cross-correlation of (n, C, H, W) with weights (out, C / groups, kernel height, kernel width)."""
    top, left, bottom, right = window.pads
    padding = (top, left)
    if (top, left) != (bottom, right):
        batch, padding = padded(batch, window, 0.0), (0, 0)
    return functional.conv2d(batch, weight, bias, window.strides, padding, window.dilations, groups)


def padded(batch: Tensor, window: Window, value: float) -> Tensor:
    """The batch with the pads of a window, filled with a value."""
    top, left, bottom, right = window.pads
    if not any(window.pads):
        return batch
    return functional.pad(batch, (left, right, top, bottom), value=value)


def maximum(batch: Tensor, window: Window, lowest: float) -> Tensor:
    """Max pooling; `lowest` pads and never wins."""
    inside = padded(batch, window, lowest)
    return functional.max_pool2d(inside, window.kernel, window.strides, 0, window.dilations)


def counts(window: Window, height: int, width: int, *, include_pad: bool) -> Tensor:
    """Divisor of an average at every output position: the inputs its window sees, () or (1, 1, OH, OW)."""
    if include_pad:
        return torch.tensor(float(window.kernel[0] * window.kernel[1]), dtype=torch.float32)
    return total(torch.ones((1, 1, height, width), dtype=torch.float32), window)


def total(batch: Tensor, window: Window) -> Tensor:
    """Sum over every window, (n, C, OH, OW)."""
    if window.kernel == tuple(batch.shape[2:]) and not any(window.pads):
        return batch.sum(dim=(2, 3), keepdim=True)
    channels = batch.shape[1]
    ones = torch.ones((channels, 1, *window.kernel), dtype=batch.dtype)
    return convolve(batch, ones, window, channels)

"""What max and average pooling share."""

from __future__ import annotations

from collections.abc import Sequence

from deployq.graph import Shape
from deployq.ops.window import Window


def pool_shape(window: Window, inputs: Sequence[Shape]) -> Shape:
    """Output shape of a pool over an input (C, H, W)."""
    if len(inputs[0]) != 3:
        raise ValueError(f"pooling needs an input (C, H, W), not {inputs[0]}")
    return (inputs[0][0], *window.output_size(*inputs[0][1:]))


def pool_parameters(window: Window, shape: Shape) -> dict[str, int]:
    """Geometry members of the C parameter struct of a pool over an input (C, H, W)."""
    channels, height, width = shape
    rows, columns = window.output_size(height, width)
    return {
        "in_height": height,
        "in_width": width,
        "channels": channels,
        "out_height": rows,
        "out_width": columns,
        "kernel_height": window.kernel[0],
        "kernel_width": window.kernel[1],
        "stride_height": window.strides[0],
        "stride_width": window.strides[1],
        "pad_top": window.pads[0],
        "pad_left": window.pads[1],
        "dilation_height": window.dilations[0],
        "dilation_width": window.dilations[1],
    }

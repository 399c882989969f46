"""Sliding-window geometry shared by convolutions and pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.graph import Shape
from deployq.ops.base import Array, UnsupportedNodeError

#: Largest kernel, stride, dilation or pad that is imported; bounds the work a hostile model can cause.
LARGEST_EXTENT = 4096


#: Elements of an input with its pads, per sample; 16 MB as int8.
_LARGEST_PADDED_INPUT = 2**24

#: Elements of all windows of a sample; 256 MB as float32, which is how the float network is run. The largest
#: convolution of VGG-16 has 29 million.
_LARGEST_WINDOWS = 2**26


@dataclass(frozen=True)
class Window:
    """A two-dimensional window.

    Attributes:
        kernel: (height, width).
        strides: (vertical, horizontal).
        pads: (top, left, bottom, right), as in ONNX.
        dilations: (vertical, horizontal).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width the dilated kernel covers."""
        return (
            (self.kernel[0] - 1) * self.dilations[0] + 1,
            (self.kernel[1] - 1) * self.dilations[1] + 1,
        )

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Output height and width; raises ValueError when the window does not fit."""
        top, left, bottom, right = self.pads
        rows = (height + top + bottom - self.extent[0]) // self.strides[0] + 1
        columns = (width + left + right - self.extent[1]) // self.strides[1] + 1
        if rows < 1 or columns < 1:
            raise ValueError(f"window {self.kernel} does not fit a {height}x{width} input")
        return rows, columns

    def columns(self, batch: Array, pad_value: float = 0) -> Array:
        """All windows of a batch (N, C, H, W) as an array (N, C, taps, OH, OW)."""
        rows, columns = self.output_size(*batch.shape[2:])
        padded = self._padded(batch, pad_value)
        result = np.empty(
            (*batch.shape[:2], self.kernel[0] * self.kernel[1], rows, columns), dtype=batch.dtype
        )
        for tap, (row, column) in enumerate(self._tap_offsets()):
            result[:, :, tap] = padded[
                :,
                :,
                row : row + (rows - 1) * self.strides[0] + 1 : self.strides[0],
                column : column + (columns - 1) * self.strides[1] + 1 : self.strides[1],
            ]
        return result

    def columns_at(self, batch: Array, positions: npt.NDArray[np.integer[Any]]) -> Array:
        """The windows at some output positions, padded with zero: (N, C, taps, positions).

        Args:
            batch: (N, C, H, W).
            positions: flat indices into the (OH, OW) output, shape (positions,).
        """
        _, columns = self.output_size(*batch.shape[2:])
        top, left = (positions // columns) * self.strides[0], (positions % columns) * self.strides[1]
        padded = self._padded(batch, 0)
        windows = [padded[:, :, top + row, left + column] for row, column in self._tap_offsets()]
        return np.stack(windows, axis=2)

    def _padded(self, batch: Array, value: float) -> Array:
        top, left, bottom, right = self.pads
        if not any(self.pads):
            return batch
        return np.pad(batch, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)

    def _tap_offsets(self) -> list[tuple[int, int]]:
        """Row and column of each tap relative to the first, in kernel order."""
        rows, columns = self.kernel
        return [
            (row * self.dilations[0], column * self.dilations[1])
            for row in range(rows)
            for column in range(columns)
        ]

    def onnx_attributes(self) -> dict[str, list[int]]:
        """The attributes of an ONNX convolution or pool."""
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "pads": list(self.pads),
            "dilations": list(self.dilations),
        }


def window_from_onnx(attributes: Mapping[str, Any], kernel: tuple[int, ...], shape: Shape) -> Window:
    """The window an ONNX node describes; resolves auto_pad and ceil_mode into explicit pads.

    Args:
        attributes: of the node.
        kernel: spatial kernel shape.
        shape: input shape (C, H, W).

    Raises:
        UnsupportedNodeError: not two-dimensional, or values out of range.
    """
    if len(kernel) != 2 or len(shape) != 3:
        raise UnsupportedNodeError(f"{len(kernel)}-D window on input of shape {shape}; only 2-D is supported")
    strides = tuple(attributes.get("strides", (1, 1)))
    dilations = tuple(attributes.get("dilations", (1, 1)))
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    if len(strides) != 2 or len(dilations) != 2 or len(pads) != 4:
        raise UnsupportedNodeError("strides, dilations and pads must be two-dimensional")
    if min(*kernel, *strides, *dilations) < 1 or min(pads) < 0:
        raise UnsupportedNodeError("kernel, strides and dilations must be positive, pads not negative")
    if max(*kernel, *strides, *dilations, *pads) > LARGEST_EXTENT:
        raise UnsupportedNodeError(f"kernel, strides, dilations and pads must not exceed {LARGEST_EXTENT}")
    window = Window((kernel[0], kernel[1]), strides, pads, dilations)
    auto_pad = attributes.get("auto_pad", "NOTSET")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        window = _same(window, shape, upper=auto_pad == "SAME_UPPER")
    elif auto_pad == "VALID":
        window = Window(window.kernel, strides, (0, 0, 0, 0), dilations)
    if attributes.get("ceil_mode", 0):
        window = _ceil(window, shape)
    padded = [size + window.pads[axis] + window.pads[axis + 2] for axis, size in enumerate(shape[1:])]
    if shape[0] * padded[0] * padded[1] > _LARGEST_PADDED_INPUT:
        raise UnsupportedNodeError(f"pads {window.pads} make the input too large")
    try:
        rows, columns = window.output_size(*shape[1:])
    except ValueError as error:
        raise UnsupportedNodeError(str(error)) from error
    elements = shape[0] * window.kernel[0] * window.kernel[1] * rows * columns
    if elements > _LARGEST_WINDOWS:
        what = f"{rows}x{columns} windows of {window.kernel[0]}x{window.kernel[1]} on {shape[0]} channels"
        raise UnsupportedNodeError(f"{what} are {elements * 4 >> 20} MiB a sample, too large to be run")
    return window


def _same(window: Window, shape: Shape, *, upper: bool) -> Window:
    begin, end = [], []
    for size, extent, stride in zip(shape[1:], window.extent, window.strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        smaller, larger = total // 2, total - total // 2
        begin.append(smaller if upper else larger)
        end.append(larger if upper else smaller)
    return Window(window.kernel, window.strides, (*begin, *end), window.dilations)  # type: ignore[arg-type]


def _ceil(window: Window, shape: Shape) -> Window:
    """Extend the end pads so that the floor rule gives the size of ONNX's ceil_mode."""
    ends = []
    for axis in range(2):
        size, begin, end = shape[1 + axis], window.pads[axis], window.pads[2 + axis]
        stride, extent = window.strides[axis], window.extent[axis]
        outputs = -(-(size + begin + end - extent) // stride) + 1
        if (outputs - 1) * stride >= size + begin:  # the last window must start inside the input
            outputs -= 1
        ends.append(max((outputs - 1) * stride + extent - size - begin, end))
    return Window(window.kernel, window.strides, (*window.pads[:2], *ends), window.dilations)  # type: ignore[arg-type]

"""Depthwise convolution with 3x3 windows for cores without DSP: two outputs of a line in a word.

Four neighbouring channels of the input are expanded into words, a strip of lines at a time, padded with
the zero point. A word holds two pixels of a channel in 16-bit lanes, so that one multiplication serves
two outputs, where all sums are proven to fit lanes. Which two depends on the core:

- Armv7-M: neighbours among the pixels that meet the same weight. A long multiplication by two weights at
  once gives the lanes of two neighbouring outputs, and begins those of the next two.
- Armv6-M: half a line apart, so that every word of a window takes the place of one pixel.

Where sums do not fit lanes, on Armv7-M a word holds one pixel, and the sums of a line replace its words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.depthwise_forms import Form, find_form
from deployq.codegen.kernels.weighted import ConvolutionLayer
from deployq.codegen.packing import BY_COLUMNS, description
from deployq.codegen.packing.streams import dense
from deployq.ops import KernelCall
from deployq.ops.base import Array

#: Channels expanded together.
CHANNELS = 4

#: Bytes of a line in a column of words: one word of each channel.
_LINE_BYTES = 4 * CHANNELS

#: Lines of a column, by the stride along the lines: a column of stride one, or two of stride two, take less
#: than 256 bytes, the largest immediate operand.
_LINES = {1: 8, 2: 7}

#: Layers that would need more scratch memory than this get columns of fewer lines.
_USUAL_BYTES = 4096
_FEW_LINES = 4

#: Layers that need more scratch memory than this are left to other kernels.
_LARGEST_SCRATCH_BYTES = 8192

#: Unpacked weights of four channels.
_WEIGHT_BYTES = 4 * 9 * CHANNELS


def conv2d(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The kernel of a depthwise convolution; None where it does not apply.

    It applies to four channels or more with one filter each, 3x3 windows without dilation, a stride of one
    or two along one of the axes, and stages that clamp to int8; on Armv6-M where sums fit lanes.
    """
    window, channels = layer.op.window, layer.shape[0]
    if not core.features & {"armv7m", "armv6m"} or not layer.depthwise or channels < CHANNELS:
        return None
    if window.kernel != (3, 3) or window.dilations != (1, 1) or layer.op.weight_shape[0] != channels:
        return None
    form = find_form(layer, core)
    layout = _layout(layer, core, form.pairing) if form else None
    if form is None or layout is None:
        return None
    size = "low" if layout.column_lines == _FEW_LINES else ""
    name = "_".join(word for word in (f"3x3s{layout.pixels.stride}", size, "shifted" * form.shifted) if word)
    return KernelCall(
        template="depthwise2d_wNa8_lanes.c.j2",
        function=f"dq_depthwise2d_{name}_w{layer.bits}a8_{form.pairing}",
        variant={
            "bits": layer.bits,
            "stride": layout.pixels.stride,
            "lines": layout.column_lines,
            "pairing": form.pairing,
            "shifted": int(form.shifted),
        },
        parameters=_parameters(layer, form) | layout.members,
        tables=_tables(layer, layout, form),
        weights_format=description(dense(layer.bits), BY_COLUMNS * layout.transposed),
        scratch_bytes=_WEIGHT_BYTES + layout.bytes,
        lead="same" if layout.read_ahead else None,
    )


@dataclass(frozen=True)
class _Axis:
    """One axis of a convolution with windows of three: sizes of input and output."""

    size: int
    outputs: int
    stride: int
    pad: int


@dataclass(frozen=True)
class _Words:
    """Words of a line: word k holds the pixels `first` + k * `step` and `distance` pixels further.

    Attributes:
        column: of word 0; the words after it are `columns` columns apart.
    """

    column: int
    columns: int
    count: int
    first: int
    step: int
    distance: int

    def runs(self, size: int, padding: bool) -> list[tuple[int, int, int, int]]:
        """Neighbouring words of which the same lanes lie in a line of `size` pixels.

        Args:
            size: of the line.
            padding: also words that are all padding.

        Returns:
            (column, words, first pixel or -1 outside, second pixel or -1).
        """
        found: list[tuple[int, int, int, int]] = []
        before: tuple[bool, bool] | None = None
        for k in range(self.count):
            pixels = [self.first + k * self.step + lane * self.distance for lane in range(2)]
            first, second = (pixel if 0 <= pixel < size else -1 for pixel in pixels)
            inside = (first >= 0, second >= 0)
            if inside == before:
                column, words, *begin = found[-1]
                found[-1] = (column, words + 1, begin[0], begin[1])
            elif any(inside) or padding:
                found.append((self.column + k * self.columns, 1, first, second))
            before = inside if any(inside) or padding else None
        return found


@dataclass(frozen=True)
class _Layout:
    """Columns of words whose lines are the rows of the image, or its columns.

    Attributes:
        lines: the axis across the lines.
        pixels: the axis along them.
        channels: of input and output.
        transposed: a line is a column of the image.
        column_lines: lines of a column of words.
        pairing: what a word holds, "neighbours", "halves" or "singles".
    """

    lines: _Axis
    pixels: _Axis
    channels: int
    transposed: bool
    column_lines: int
    pairing: str

    @property
    def half(self) -> int:
        """Outputs in the first lanes of a line, of which the last may be the last of the line."""
        return -(-self.pixels.outputs // 2)

    @cached_property
    def words(self) -> tuple[_Words, ...]:
        """All words of a line."""
        stride, pad = self.pixels.stride, self.pixels.pad
        if self.pairing == "singles":
            return (_Words(0, 1, (self.pixels.outputs - 1) * stride + 3, -pad, 1, 0),)
        if self.pairing == "halves":
            distance = (self.pixels.outputs - self.half) * stride
            return (_Words(0, 1, (self.half - 1) * stride + 3, -pad, 1, distance),)
        if stride == 1:
            return (_Words(0, 1, self.half + 1, -pad, 2, 1),)
        return (
            _Words(0, 2, self.half + 1, -2 - pad, 4, 2),
            _Words(1, 2, self.half, 1 - pad, 4, 2),
        )

    @property
    def columns(self) -> int:
        """Columns of words, with those that no window sees and that a loop of three outputs runs over."""
        last = max(words.column + (words.count - 1) * words.columns for words in self.words)
        return last + 1 + (2 if self.pairing == "singles" and self.pixels.stride == 1 else 0)

    @property
    def bytes(self) -> int:
        """Size of all columns."""
        return self.columns * self.column_lines * _LINE_BYTES

    @property
    def strip(self) -> int:
        """Lines of the output that the columns give."""
        return min((self.column_lines - 3) // self.lines.stride + 1, self.lines.outputs)

    @property
    def read_ahead(self) -> bool:
        """Each strip is expanded before its output overwrites it, pixel over pixel of equal size."""
        ends = range(self.strip, self.lines.outputs, self.strip)
        read = [(end - 1) * self.lines.stride - self.lines.pad + 3 for end in ends]
        return not read or (
            not self.transposed
            and all(
                min(lines, self.lines.size) * self.pixels.size >= end * self.pixels.outputs
                for lines, end in zip(read, ends, strict=True)
            )
        )

    @property
    def runs(self) -> Array:
        """int32 (runs, 4): byte of the columns, words, bytes of the two first pixels in a line or -1."""
        step = (self.lines.size if self.transposed else 1) * self.channels
        return np.array(
            [
                (column * self.column_lines * _LINE_BYTES, count, *(max(x * step, -1) for x in pixels))
                for words in self.words
                for column, count, *pixels in words.runs(self.pixels.size, self.pairing == "singles")
            ],
            np.int32,
        )

    @property
    def members(self) -> dict[str, int]:
        """Members of the parameter struct."""
        of_line, of_pixel = (1, self.lines.size) if self.transposed else (self.pixels.size, 1)
        to_line, to_pixel = (1, self.lines.outputs) if self.transposed else (self.pixels.outputs, 1)
        words = self.words[0]
        lane_pixels = self.pixels.outputs - self.half if self.pairing == "halves" else 1
        column_bytes = self.column_lines * _LINE_BYTES
        # What the kernel walks over: whole words of outputs, all columns, or those of the sums.
        walked = {
            "neighbours": self.pixels.outputs // 2 * words.columns,
            "halves": self.columns,
            "singles": self.pixels.outputs * self.pixels.stride + (2 if self.pixels.stride == 1 else 0),
        }[self.pairing]
        return {
            "channels": self.channels,
            "in_lines": self.lines.size,
            "in_line_step": of_line * self.channels,
            "word_step": words.step * of_pixel * self.channels,
            "word_bytes": words.columns * column_bytes,
            "out_lines": self.lines.outputs,
            "out_line_step": to_line * self.channels,
            "out_pixel_step": to_pixel * self.channels,
            "second": lane_pixels * to_pixel * self.channels,
            "odd": self.pixels.outputs % 2,
            "stride_lines": self.lines.stride,
            "pad_lines": self.lines.pad,
            "strip": self.strip,
            "columns": self.columns,
            "column_lines": self.column_lines,
            "walked_bytes": walked * column_bytes,
            "columns_at": _WEIGHT_BYTES,
            "runs": len(self.runs),
        }


def _layout(layer: ConvolutionLayer, core: Core, pairing: str) -> _Layout | None:
    """The columns of a layer; None where none are possible."""
    window, size = layer.op.window, layer.shape[1:]
    outputs = window.output_size(*size)
    axes = [_Axis(size[i], outputs[i], window.strides[i], window.pads[i]) for i in range(2)]
    possible = []
    for transposed in (False, True):
        lines, pixels = reversed(axes) if transposed else axes
        for limit, usual in ((core.scratch(_USUAL_BYTES), True), (_LARGEST_SCRATCH_BYTES, False)):
            if pixels.stride not in _LINES:
                continue
            height = _LINES[pixels.stride] if usual else _FEW_LINES
            layout = _Layout(lines, pixels, layer.shape[0], transposed, height, pairing)
            if _WEIGHT_BYTES + layout.bytes <= limit and len(layout.runs) > 0:
                possible.append(layout)
                break
    # Every line costs some instructions: few long ones are better. Columns are lines only where they all
    # fit at once, since a strip of columns would not be read ahead of the output.
    fitting = [one for one in possible if not one.transposed or one.strip == one.lines.outputs]
    return max(fitting, key=lambda one: (one.pixels.outputs, not one.transposed), default=None)


def _tables(layer: ConvolutionLayer, layout: _Layout, form: Form) -> dict[str, Array]:
    """Array members of the parameter struct."""
    alphabet = layer.accumulation.weights.alphabet
    levels = layer.op.levels.swapaxes(2, 3) if layout.transposed else layer.op.levels
    codes = alphabet.encode(levels.reshape(len(levels), -1))
    return {
        "weights": dense(layer.bits).pack(codes, alphabet.neutral_code).reshape(-1),
        "run": layout.runs.reshape(-1),
        "bias": form.bias.astype(np.int32),
        "multiplier": form.multiplier.astype(np.int32),
    }


def _parameters(layer: ConvolutionLayer, form: Form) -> dict[str, int]:
    """Members of the parameter struct that do not depend on the layout."""
    alphabet, stage = layer.accumulation.weights.alphabet, layer.accumulation.stage
    return {
        "step": alphabet.step << form.folded,
        "offset": alphabet.offset * (1 << form.folded),
        "shift": form.shift,
        "zero_point": stage.zero_point,
        "input_zero_point": layer.accumulation.input_zero_point,
    }

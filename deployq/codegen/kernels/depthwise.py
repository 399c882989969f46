"""Depthwise convolution on planes of single channels, for cores with the DSP extension.

Four neighbouring channels of the input are expanded into four planes of 16-bit values, padded with the
zero point, a strip of lines at a time. In a plane the taps of a window are neighbours, so that one SMLAD
adds two products, and a channel's weights stay in registers. Any width of weights: they are unpacked
once per channel. An accumulator is 32 bits wide as in the portable kernel. A left shift of the output stage
is done to the weights and biases beforehand, where they are proven to fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployq.arithmetic import INT8_MAX, INT8_MIN, INT16_MAX, INT16_MIN, INT32_MAX
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.weighted import ConvolutionLayer, channel_tables, stage_parameters
from deployq.codegen.packing import BY_COLUMNS, description
from deployq.codegen.packing.streams import dense
from deployq.ops import KernelCall
from deployq.ops.base import Array

#: Channels expanded together: those of one word.
CHANNELS = 4

#: Planes are as tall as fits into this many bytes, and into a quarter of the size of the input, but at
#: least as tall as one window.
_PLANE_BYTES = 4096

#: Windows up to this wide have kernels of their own at strides one and two.
_WIDEST_PAIRED = 7

#: Layers that need more scratch memory than this are left to the portable kernel.
_LARGEST_SCRATCH_BYTES = 8192


def conv2d(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The kernel of a depthwise convolution; None where it does not apply.

    It applies to four input channels or more, any kernel size, stride, pads and channel multiplier, and
    to dilation along one of the axes.
    """
    if "dsp" not in core.features or not layer.depthwise or layer.shape[0] < CHANNELS:
        return None
    planes = _planes(layer, core.scratch(_PLANE_BYTES))
    if planes is None:
        return None
    shift = _folded_shift(layer)
    direct = planes.three_by_three and _direct(layer, shift)
    channels = channel_tables(layer.accumulation)
    name = planes.kernel if direct or not planes.three_by_three else f"{planes.kernel}_staged"
    return KernelCall(
        template="depthwise2d_wNa8_smlad.c.j2",
        function=f"dq_depthwise2d_{name}_w{layer.bits}a8_smlad",
        variant={
            "bits": layer.bits,
            "shape": planes.kernel,
            "direct": int(direct),
            "taps": planes.pixels.taps if planes.paired else 0,
            "stride": planes.pixels.stride if planes.paired else 0,
        },
        parameters=_parameters(layer, shift) | planes.members | {"planes_at": planes.weight_bytes},
        tables=channels
        | {"weights": _packed(layer, planes.transposed), "bias": channels["bias"] << np.int32(shift)},
        weights_format=description(dense(layer.bits), BY_COLUMNS * planes.transposed),
        scratch_bytes=planes.weight_bytes + planes.bytes,
        lead="same" if planes.read_ahead else None,
    )


@dataclass(frozen=True)
class _Axis:
    """One axis of a convolution: sizes of input and output, and the window along it."""

    size: int
    outputs: int
    taps: int
    stride: int
    dilation: int
    pad: int

    @property
    def extent(self) -> int:
        """Input positions that a window spans."""
        return (self.taps - 1) * self.dilation + 1


@dataclass(frozen=True)
class _Planes:
    """Four planes whose lines are the rows of the image, or its columns.

    Attributes:
        lines: the axis across the lines.
        pixels: the axis along them.
        channels: of the input.
        outputs: channels of the output.
        transposed: a line is a column of the image.
        usual_bytes: that planes may take; those of one window may take more.
    """

    lines: _Axis
    pixels: _Axis
    channels: int
    outputs: int
    transposed: bool
    usual_bytes: int

    @property
    def possible(self) -> bool:
        """Neighbours in a line are neighbours in a window, and the planes are small enough."""
        neighbours = self.pixels.dilation == 1 or self.pixels.taps == 1
        return neighbours and self.weight_bytes + self.bytes <= _LARGEST_SCRATCH_BYTES

    @property
    def three_by_three(self) -> bool:
        """There is a kernel for this stride, and it has two outputs to begin with."""
        taps = (self.lines.taps, self.pixels.taps)
        return taps == (3, 3) and self.pixels.stride <= 2 <= self.pixels.outputs

    @property
    def paired(self) -> bool:
        """There is an unrolled kernel for windows this wide at this stride."""
        narrow = self.pixels.stride in (1, 2) and self.pixels.taps <= _WIDEST_PAIRED
        return narrow and not self.three_by_three

    @property
    def kernel(self) -> str:
        """Which kernel computes lines."""
        if self.three_by_three:
            return f"3x3s{self.pixels.stride}"
        if self.paired:
            return f"k{self.pixels.taps}s{self.pixels.stride}"
        return "any"

    @property
    def weight_words(self) -> int:
        """Words of the unpacked weights of an output channel."""
        return 6 if self.three_by_three else 2 * self.lines.taps * (self.pixels.taps // 2 + 1)

    @property
    def weight_bytes(self) -> int:
        """Unpacked weights of all output channels of the planes."""
        return 4 * self.weight_words * CHANNELS * (self.outputs // self.channels)

    @property
    def pitch(self) -> int:
        """Words of a line: a window may start at the second half of a word."""
        return (self.pixels.outputs - 1) * self.pixels.stride // 2 + self.pixels.taps // 2 + 1

    @property
    def strip(self) -> int:
        """Lines of the output that the planes give."""
        allowed = min(self.usual_bytes, self.lines.size * self.pixels.size * self.channels // 4)
        fitting = allowed // (CHANNELS * 4 * self.pitch)
        return min(max((fitting - self.lines.extent) // self.lines.stride + 1, 1), self.lines.outputs)

    @property
    def plane(self) -> int:
        """Words of a plane."""
        return self.pitch * ((self.strip - 1) * self.lines.stride + self.lines.extent)

    @property
    def bytes(self) -> int:
        """Size of all four."""
        return CHANNELS * 4 * self.plane

    @property
    def read_ahead(self) -> bool:
        """Each strip is in the planes before its output overwrites it, pixel over pixel of equal size."""
        if self.channels != self.outputs:
            return False
        ends = range(self.strip, self.lines.outputs, self.strip)
        read = [(end - 1) * self.lines.stride - self.lines.pad + self.lines.extent for end in ends]
        return not read or (
            not self.transposed
            and all(
                min(lines, self.lines.size) * self.pixels.size >= end * self.pixels.outputs
                for lines, end in zip(read, ends, strict=True)
            )
        )

    @property
    def members(self) -> dict[str, int]:
        """Members of the parameter struct."""
        of_line, of_pixel = (1, self.lines.size) if self.transposed else (self.pixels.size, 1)
        to_line, to_pixel = (1, self.lines.outputs) if self.transposed else (self.pixels.outputs, 1)
        return {
            "in_channels": self.channels,
            "group_outputs": self.outputs // self.channels,
            "in_lines": self.lines.size,
            "in_line_step": of_line * self.channels,
            "in_pixel_step": of_pixel * self.channels,
            "out_lines": self.lines.outputs,
            "out_pixels": self.pixels.outputs,
            "out_line_step": to_line * self.outputs,
            "out_pixel_step": to_pixel * self.outputs,
            "kernel_lines": self.lines.taps,
            "kernel_pixels": self.pixels.taps,
            "stride_lines": self.lines.stride,
            "stride_pixels": self.pixels.stride,
            "dilation_lines": self.lines.dilation,
            "pad_lines": self.lines.pad,
            "pad_pixels": self.pixels.pad,
            "pixels": min(max(2 * self.pitch - self.pixels.pad, 0), self.pixels.size),
            "pitch": self.pitch,
            "plane": self.plane,
            "strip": self.strip,
            "kept": max(self.lines.extent - self.lines.stride, 0),
            "weight_words": self.weight_words,
        }


def _planes(layer: ConvolutionLayer, usual_bytes: int) -> _Planes | None:
    """The planes of a layer; None where none are possible."""
    window, size = layer.op.window, layer.shape[1:]
    outputs = window.output_size(*size)
    rows, columns = (
        _Axis(size[i], outputs[i], window.kernel[i], window.strides[i], window.dilations[i], window.pads[i])
        for i in range(2)
    )
    channels, filters = layer.shape[0], layer.op.weight_shape[0]
    upright = _Planes(rows, columns, channels, filters, False, usual_bytes)
    lying = _Planes(columns, rows, channels, filters, True, usual_bytes)
    # Every line costs some instructions: few long ones are better. Columns are lines only where they all
    # fit at once, since a strip of columns would not be read ahead of the output.
    longer = lying.strip == lying.lines.outputs < lying.pixels.outputs
    preferred = (lying, upright) if longer else (upright, lying)
    return next((planes for planes in preferred if planes.possible), None)


def _packed(layer: ConvolutionLayer, transposed: bool) -> Array:
    """Dense rows of weights, taps line by line."""
    alphabet = layer.accumulation.weights.alphabet
    levels = layer.op.levels.swapaxes(2, 3) if transposed else layer.op.levels
    codes = alphabet.encode(levels.reshape(len(levels), -1))
    return dense(layer.bits).pack(codes, alphabet.neutral_code).reshape(-1)


def _folded_shift(layer: ConvolutionLayer) -> int:
    """By how much weights and biases are shifted left, so that the output stage need not shift the sums.

    That is by all of the stage's shift, or by nothing where weights do not fit 16 bits or biases 32. The
    stage itself demands that all sums fit 32 bits when they are shifted.
    """
    shift, values = layer.accumulation.stage.shift, layer.accumulation.weights.alphabet.values
    lowest, highest = int(values[0]) << shift, int(values[-1]) << shift
    bias = int(np.abs(layer.accumulation.folded_bias).max()) << shift
    return shift if lowest >= INT16_MIN and highest <= INT16_MAX and bias <= INT32_MAX else 0


def _direct(layer: ConvolutionLayer, folded: int) -> bool:
    """The output is the zero point plus one rounded product, saturated to int8: three instructions."""
    stage = layer.accumulation.stage
    bounds = (int(stage.low.min()), int(stage.high.max()))
    return stage.shift == folded and not stage.per_channel_clamp and bounds == (INT8_MIN, INT8_MAX)


def _parameters(layer: ConvolutionLayer, folded: int) -> dict[str, int]:
    """Members of the parameter struct that do not depend on the planes; weights are shifted by `folded`."""
    alphabet, stage = layer.accumulation.weights.alphabet, layer.accumulation.stage
    return stage_parameters(layer.accumulation) | {
        "stage.shift": stage.shift - folded,
        "row_size": dense(layer.bits).row_bytes(layer.taps),
        "step": alphabet.step << folded,
        "offset": alphabet.offset * (1 << folded),
        "input_zero_point": layer.accumulation.input_zero_point,
    }

"""Geometry of a depthwise convolution on planes of single channels: what the planes hold, and when.

A line of a plane is a row of the image, or a column of it, expanded to 16 bits. Where a convolution is
dilated along the lines, every d-th pixel of a line stands in a plane at a time, so that the taps of a window
are neighbours again: the outputs fall into d phases, each a convolution without dilation.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

#: Input channels expanded together: those of one word.
CHANNELS = 4

#: Kernels of a known window are up to this wide, with up to this stride along the lines ...
_WIDEST, _LARGEST_STRIDE = 13, 8

#: ... and have an assembly form for up to so many lines, and for so many of one tap.
_MOST_LINES, _MOST_LINES_OF_ONE_TAP = 16, 12

#: Instructions of the output stage and stores of two outputs, of a line of a window and of a line of outputs
#: apart from its products, and of a tap of the kernel of any window.
_OUTPUTS_COST, _LINE_COST, _LINE_OF_OUTPUTS_COST, _C_COST = 16, 2, 17, 15


def _ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution: sizes of input and output, and the window along it.

    Attributes:
        size: of the input that counts.
        outputs: positions of the window.
        taps: of the window.
        stride: from one window to the next.
        dilation: from one tap to the next.
        pad: positions before the input.
        first: position in the image of the first that counts.
        step: positions of the image from one that counts to the next.
        whole: size of the image.
    """

    size: int
    outputs: int
    taps: int
    stride: int
    dilation: int
    pad: int
    first: int
    step: int
    whole: int

    @staticmethod
    def of(size: int, outputs: int, taps: int, stride: int, dilation: int, pad: int) -> Axis:
        """An axis without what no window sees since stride and dilation have a common factor."""
        dilation = stride if taps == 1 else dilation
        step = gcd(stride, dilation)
        padded = _ceil_div(pad, step)
        first = padded * step - pad
        left = _ceil_div(max(size - first, 0), step)
        return Axis(
            left, outputs, taps, stride // step, dilation // step, padded, first if left else 0, step, size
        )

    @property
    def extent(self) -> int:
        """Input positions that a window spans."""
        return (self.taps - 1) * self.dilation + 1

    @property
    def phases(self) -> int:
        """Convolutions without dilation of which this one consists."""
        return min(self.dilation, self.outputs)

    def phase(self, index: int) -> tuple[int, int, int]:
        """Pad, size and outputs of the convolution of every dilation-th output from output `index` on."""
        outside = self.pad - index * self.stride
        pad = _ceil_div(max(outside, 0), self.dilation)
        size = _ceil_div(max(self.size - (pad * self.dilation - outside), 0), self.dilation)
        return pad, size, _ceil_div(self.outputs - index, self.dilation)

    def seen(self, outputs: int) -> int:
        """Position of the image before which everything is read that the first `outputs` outputs need."""
        read = (outputs - 1) * self.stride - self.pad + self.extent
        return self.whole if read >= self.size else max(self.first + read * self.step, 0)


@dataclass(frozen=True)
class Planes:
    """Planes of up to four channels whose lines are the rows of the image, or its columns.

    Attributes:
        lines: the axis across the lines.
        pixels: the axis along them.
        channels: of the input.
        outputs: channels of the output.
        transposed: a line is a column of the image.
        usual_bytes: that planes may take; those of one window may take more.
    """

    lines: Axis
    pixels: Axis
    channels: int
    outputs: int
    transposed: bool
    usual_bytes: int

    @property
    def dilated(self) -> bool:
        """The kernel takes the outputs phase by phase."""
        return self.pixels.dilation > 1

    @property
    def method(self) -> str:
        """Which kernel computes lines: one for 3x3 windows, for a known window, or for any."""
        taps, stride = (self.lines.taps, self.pixels.taps), self.pixels.stride
        if taps == (3, 3) and stride <= 2 <= self.pixels.outputs // self.pixels.dilation:
            return "3x3"
        known = self.pixels.taps <= _WIDEST and stride <= _LARGEST_STRIDE
        return "window" if known else "any"

    @property
    def assembled(self) -> bool:
        """The kernel has an assembly form, for the usual output stage."""
        most = _MOST_LINES_OF_ONE_TAP if self.pixels.taps == 1 else _MOST_LINES
        return self.method != "any" and self.lines.taps <= most

    @property
    def shape(self) -> str:
        """Name of the kernel that computes lines."""
        if self.method == "any":
            return "any"
        size = f"{self.lines.taps}x{self.pixels.taps}s{self.pixels.stride}"
        return size if self.method == "3x3" else f"k{size}"

    @property
    def window(self) -> dict[str, int | str]:
        """Template variables of the kernel that computes lines: its window, where that is a known one."""
        known = int(self.method != "any")
        return {
            "method": self.method,
            "shape": self.shape,
            "lines": self.lines.taps * known,
            "taps": self.pixels.taps * known,
            "stride": self.pixels.stride * known,
        }

    @property
    def weight_words(self) -> int:
        """Words of the unpacked weights of an output channel."""
        lines, taps = self.lines.taps, self.pixels.taps
        if self.method == "3x3":
            return 6
        if self.method == "any":
            return 2 * lines * (taps // 2 + 1)
        if taps == 1:
            return _ceil_div(lines, 2)
        # All pairs of neighbours but those across the parts of a wide window, or every other pair.
        return lines * (taps - (taps + 4) // 6 if self.pixels.stride % 2 else _ceil_div(taps, 2))

    @property
    def together(self) -> int:
        """Channels that are expanded together."""
        return min(self.channels, CHANNELS)

    @property
    def weight_bytes(self) -> int:
        """Unpacked weights of all output channels of the planes."""
        return 4 * self.weight_words * self.together * (self.outputs // self.channels)

    @property
    def pitch(self) -> int:
        """Words of a line: a window may start at the second half of a word."""
        _, _, outputs = self.pixels.phase(0)
        return (outputs - 1) * self.pixels.stride // 2 + self.pixels.taps // 2 + 1

    @property
    def strip(self) -> int:
        """Lines of the output that the planes give."""
        allowed = min(self.usual_bytes, self.lines.whole * self.pixels.whole * self.channels // 4)
        fitting = allowed // (self.together * 4 * self.pitch)
        return min(max((fitting - self.lines.extent) // self.lines.stride + 1, 1), self.lines.outputs)

    @property
    def plane(self) -> int:
        """Words of a plane."""
        return self.pitch * self._plane_lines

    @property
    def _plane_lines(self) -> int:
        """Lines of a plane."""
        return (self.strip - 1) * self.lines.stride + self.lines.extent

    @property
    def _whole(self) -> int:
        """Lines of the image that the only strip holds; 0 for several strips."""
        seen = max(self._plane_lines - self.lines.pad, 0)
        return min(seen, self.lines.size) if self.strip == self.lines.outputs else 0

    @property
    def bytes(self) -> int:
        """Size of all planes."""
        return self.together * 4 * self.plane

    @property
    def scratch_bytes(self) -> int:
        """Size of unpacked weights and planes."""
        return self.weight_bytes + self.bytes

    @property
    def uneven(self) -> bool:
        """The phases differ in where a line of a plane is padding."""
        phases = [self.pixels.phase(index)[:2] for index in range(self.pixels.phases)]
        return len(set(phases)) > 1

    @property
    def read_ahead(self) -> bool:
        """Every strip is in the planes before its output overwrites it, pixel over pixel of equal size."""
        if self.channels != self.outputs or not self._phases_apart:
            return False
        ends = range(self.strip, self.lines.outputs, self.strip)
        return not ends or (
            not self.transposed
            and all(self.lines.seen(end) * self.pixels.whole >= end * self.pixels.outputs for end in ends)
        )

    @property
    def _phases_apart(self) -> bool:
        """The outputs of a phase lie where its own inputs do."""
        axes = (self.lines, self.pixels)
        in_line = all(axis.stride == axis.step == 1 and axis.size == axis.outputs for axis in axes)
        return not self.dilated or (in_line and self.pixels.pad % self.pixels.dilation == 0)

    @property
    def cost(self) -> int:
        """About how many instructions an output channel takes, apart from the expansion."""
        lines, taps, stride = self.lines.taps, self.pixels.taps, self.pixels.stride
        words = (taps - 1 + stride) // 2 + 1
        products = 2 * _ceil_div(taps, 2) if stride % 2 == 0 else taps + 1
        pair = _OUTPUTS_COST + lines * (_ceil_div(words, 2) + products + _LINE_COST)
        if not self.assembled:
            pair = 2 * lines * taps * _C_COST
        pairs = sum(_ceil_div(self.pixels.phase(i)[2], 2) for i in range(self.pixels.phases))
        return self.lines.outputs * (pairs * pair + self.pixels.phases * _LINE_OF_OUTPUTS_COST)

    @property
    def members(self) -> dict[str, int]:
        """Members of the parameter struct."""
        of_line, of_pixel = (1, self.lines.whole) if self.transposed else (self.pixels.whole, 1)
        to_line, to_pixel = (1, self.lines.outputs) if self.transposed else (self.pixels.outputs, 1)
        pad, size, _ = self.pixels.phase(0)
        return {
            "in_offset": (self.lines.first * of_line + self.pixels.first * of_pixel) * self.channels,
            "in_channels": self.channels,
            "group_outputs": self.outputs // self.channels,
            "in_lines": self.lines.size,
            "in_line_step": of_line * self.lines.step * self.channels,
            "in_pixel_step": of_pixel * self.pixels.step * self.channels,
            "out_lines": self.lines.outputs,
            "out_pixels": self.pixels.outputs,
            "out_line_step": to_line * self.outputs,
            "out_pixel_step": to_pixel * self.outputs,
            "kernel_lines": self.lines.taps,
            "kernel_pixels": self.pixels.taps,
            "stride_lines": self.lines.stride,
            "stride_pixels": self.pixels.stride,
            "dilation_lines": self.lines.dilation,
            "dilation_pixels": self.pixels.dilation,
            "phases": self.pixels.phases,
            "uneven": int(self.uneven),
            "pad_lines": self.lines.pad,
            "pad_pixels": self.pixels.pad,
            "pixels": self.pixels.size if self.dilated else min(max(2 * self.pitch - pad, 0), size),
            "pitch": self.pitch,
            "plane": self.plane,
            "strip": self.strip,
            "whole": self._whole,
            "kept": max(self.lines.extent - self.lines.stride, 0),
            "weight_words": self.weight_words,
        }

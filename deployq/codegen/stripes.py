"""A stripe of a layer, some rows of its output, is a layer of its own.

Rows [first, last) of a convolution are the convolution of the input lines they see, with pads only where
the stripe touches the edge of the image. So every kernel of every core computes stripes as it is: whoever
executes a network row by row, see `deployq.codegen.cascade`, needs the lines a stripe reads to lie one after
the other in memory, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployq.graph import Shape
from deployq.ops import IntegerOperator
from deployq.ops.add import IntegerAdd
from deployq.ops.averagepool2d import IntegerAveragePool2d
from deployq.ops.clip import IntegerClip
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.maxpool2d import IntegerMaxPool2d
from deployq.ops.window import Window

_Windowed = IntegerConv2d | IntegerMaxPool2d | IntegerAveragePool2d


@dataclass(frozen=True)
class Stripe:
    """Some rows of the output of a layer.

    Attributes:
        op: computes these rows alone.
        shapes: of its inputs, (C, lines, W).
        low: first input line it reads.
        high: end of the input lines it reads, exclusive.
        first: first output row.
        last: end of the output rows, exclusive.
    """

    op: IntegerOperator
    shapes: tuple[Shape, ...]
    low: int
    high: int
    first: int
    last: int

    @property
    def rows(self) -> int:
        """Output rows."""
        return self.last - self.first

    @property
    def geometry(self) -> tuple[int, ...]:
        """What tells stripes of a layer apart but for their place: lines, pads above and below, rows."""
        pads = self.op.window.pads if isinstance(self.op, _Windowed) else (0, 0, 0, 0)
        return self.high - self.low, pads[0], pads[2], self.rows


def stripes_of(op: IntegerOperator, shapes: Sequence[Shape], rows: int) -> tuple[Stripe, ...] | None:
    """Cut a layer into stripes.

    Args:
        op: of the layer.
        shapes: of its inputs.
        rows: output rows of a stripe; the last one may have fewer.

    Returns:
        The stripes from top to bottom; None where the operator does not work on the rows of an image, or a
        row sees nothing but padding.
    """
    if any(len(shape) != 3 for shape in shapes):
        return None
    if not isinstance(op, _Windowed | IntegerAdd | IntegerClip):
        return None
    height = op.output_shape(shapes)[1]
    cuts = [(first, min(first + rows, height)) for first in range(0, height, rows)]
    if not isinstance(op, _Windowed):
        return tuple(_same_rows(op, shapes, *cut) for cut in cuts)
    stripes = [_windowed(op, shapes[0], *cut) for cut in cuts]
    return None if any(stripe.low >= stripe.high for stripe in stripes) else tuple(stripes)


def _same_rows(op: IntegerOperator, shapes: Sequence[Shape], first: int, last: int) -> Stripe:
    inner = tuple((shape[0], last - first, shape[2]) for shape in shapes)
    return Stripe(op, inner, first, last, first, last)


def _windowed(op: _Windowed, shape: Shape, first: int, last: int) -> Stripe:
    """The stripe of an operator with a window over an input (C, H, W)."""
    channels, height, width = shape
    top, left, _, right = op.window.pads
    begin = first * op.window.strides[0] - top
    end = (last - 1) * op.window.strides[0] - top + op.window.extent[0]
    low, high = max(begin, 0), min(end, height)
    pads = (low - begin, left, end - high, right)
    window = Window(op.window.kernel, op.window.strides, pads, op.window.dilations)
    return Stripe(replace(op, window=window), ((channels, high - low, width),), low, high, first, last)

"""Kernel choice: which C function computes an operator on a target, with which constants and scratch.

Every kernel family is a module of this package with a function per operator that returns the call, or
None where the family does not apply; the first that applies is taken. The scratch layout is decided
there and handed to the C code as offsets, so that the plan of the arena and the kernels cannot
disagree. What the kernels assume about number ranges is proven from the actual weights; an operator
that cannot be proven safe is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from deployq.arithmetic import INT32_MAX
from deployq.codegen.kernels import (
    depthwise,
    depthwise_lanes,
    depthwise_pairs,
    fields_conv2d,
    fields_linear,
    helium,
    helium_depthwise,
    helium_elementwise,
    linear_halfwords,
    linear_long,
    linear_tables,
    masked_conv2d,
    portable,
    tables,
)
from deployq.codegen.kernels import sparse as sparse_kernels
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.order import Order
from deployq.codegen.kernels.weighted import ConvolutionLayer, LinearLayer, prove
from deployq.errors import ModelError
from deployq.graph import Shape
from deployq.ops import IntegerOperator, KernelCall
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.linear import IntegerLinear

_Family = TypeVar("_Family", bound=Callable[..., KernelCall | None])

#: Families by preference; each knows the cores and layers it is for, and the portable one takes the rest.
_LINEAR = (
    helium.linear,
    linear_tables.linear,
    linear_halfwords.linear,
    linear_long.linear,
    fields_linear.linear,
)
_CONV2D = (
    helium.conv2d,
    helium_depthwise.conv2d,
    depthwise.conv2d,
    fields_conv2d.conv2d,
    masked_conv2d.conv2d,
    tables.conv2d,
    depthwise_lanes.conv2d,
    depthwise_pairs.conv2d,
)


def choose_kernel(
    op: IntegerOperator,
    shapes: Sequence[Shape],
    core: Core,
    order: Order | None = None,
    name: str = "",
    sparse: bool = True,
) -> KernelCall:
    """The kernel of an operator.

    Args:
        op: integer operator.
        shapes: of its inputs, per sample.
        core: and preference.
        order: element order of the input vector of a linear operator.
        name: node name for messages.
        sparse: sparse weights may be stored as such.

    Raises:
        ModelError: the number ranges cannot be proven safe.
    """
    try:
        if isinstance(op, IntegerConv2d):
            call = _conv2d(ConvolutionLayer(op, shapes[0]), core, sparse)
        elif isinstance(op, IntegerLinear):
            call = _linear(LinearLayer(op, order), core, sparse)
        else:
            call = helium_elementwise.unweighted(op, shapes, core)
        _check_sizes(shapes, op.output_shape(shapes))
    except (ValueError, OverflowError) as error:
        raise ModelError(
            f"no C kernel for this {op.kind}: its number range cannot be proven safe",
            where=f"node {name!r}" if name else "",
            why=str(error),
            hint="fewer bits or smaller calibrated ranges make the sums smaller",
        ) from error
    return call


def _check_sizes(shapes: Sequence[Shape], output: Shape) -> None:
    for shape in (*shapes, output):
        if int(np.prod(shape, dtype=object)) > INT32_MAX // 8:
            raise ValueError(f"a tensor of shape {shape} is too large for 32-bit indices")


def _linear(layer: LinearLayer, core: Core, sparse: bool) -> KernelCall:
    prove(layer.accumulation, layer.taps)
    dense = _first(call(layer, core) for call in _preferred(_LINEAR, core)) or portable.linear(layer, core)
    chosen = sparse_kernels.linear(layer, dense, core) if sparse else None
    return chosen or dense


def _conv2d(layer: ConvolutionLayer, core: Core, sparse: bool) -> KernelCall:
    prove(layer.accumulation, layer.taps)
    dense = _first(call(layer, core) for call in _preferred(_CONV2D, core)) or portable.conv2d(layer, core)
    chosen = sparse_kernels.conv2d(layer, dense, core) if sparse else None
    return chosen or dense


def _preferred(families: Sequence[_Family], core: Core) -> Sequence[_Family]:
    """The families a core is given; where flash counts most, only those of the smallest code."""
    return () if core.optimize == "flash" else families


def _first(calls: Iterable[KernelCall | None]) -> KernelCall | None:
    return next((call for call in calls if call is not None), None)

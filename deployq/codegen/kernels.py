"""Kernel choice: which C function computes an operator on a target, with which constants and scratch.

The scratch layout is decided here and handed to the C code as offsets, so that the plan of the
arena and the kernels cannot disagree. What the kernels assume about number ranges is proven here
from the actual weights; an operator that cannot be proven safe is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deployq.arithmetic import INT32_MAX
from deployq.codegen.packing import PackedFormat, dense, lanes, lanes_worthwhile
from deployq.codegen.sparse import PackedGaps
from deployq.codegen.sparse_choice import choose_gaps
from deployq.errors import ModelError
from deployq.graph import Shape
from deployq.ops import IntegerOperator, KernelCall
from deployq.ops.accumulate import Accumulation
from deployq.ops.base import Array
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.linear import IntegerLinear
from deployq.ops.pooling import pool_parameters

#: Bytes of copied windows the portable convolution works on at a time. Each unpacked row of weights
#: serves that many pixels; more gain little.
_WINDOW_BYTES = 2048


@dataclass(frozen=True)
class Order:
    """Element order of a buffer: the transposition of a (rows, columns) matrix in graph order.

    HWC of a tensor (C, H, W) is Order(C, H * W).
    """

    rows: int
    columns: int

    def natural_index(self) -> Array:
        """Index in graph order of each element of the buffer."""
        return np.arange(self.rows * self.columns).reshape(self.rows, self.columns).T.reshape(-1)


def kernel_order(shape: Shape) -> Order | None:
    """The order kernels keep a tensor of this shape in; None where it equals the graph's order."""
    if len(shape) != 3 or shape[0] == 1 or shape[1] * shape[2] == 1:
        return None
    return Order(shape[0], shape[1] * shape[2])


def choose_kernel(
    op: IntegerOperator,
    shapes: Sequence[Shape],
    features: frozenset[str],
    order: Order | None = None,
    name: str = "",
    sparse: bool = True,
) -> KernelCall:
    """The kernel of an operator.

    Args:
        op: integer operator.
        shapes: of its inputs, per sample.
        features: instruction set extensions of the target, e.g. {"dsp"}.
        order: element order of the input vector of a linear operator.
        name: node name for messages.
        sparse: sparse weights may be stored as such.

    Raises:
        ModelError: the number ranges cannot be proven safe.
    """
    try:
        if isinstance(op, IntegerConv2d):
            call = _conv2d(op, shapes[0], features, sparse)
        elif isinstance(op, IntegerLinear):
            call = _linear(op, features, order, sparse)
        else:
            call = op.kernel(shapes)
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


def weight_format(bits: int, features: frozenset[str]) -> PackedFormat:
    """The flash format of weights that are summed over channels (not depthwise)."""
    return lanes(bits) if "dsp" in features and lanes_worthwhile(bits) else dense(bits)


def prove(accumulation: Accumulation, taps: int) -> None:
    """Prove that no intermediate of the weighted kernels leaves int32.

    The kernels compute ``bias + step * sum(u * x) + offset * sum(x)`` (depthwise: sums of the
    levels themselves), each term and each partial sum in int32; u are unsigned codes, x is int8.

    Raises:
        ValueError: some intermediate could leave int32.
    """
    lowest, highest = accumulation.extremes()
    accumulation.stage.check(int(lowest.min()), int(highest.max()))
    alphabet, folded = accumulation.weights.alphabet, accumulation.folded_bias
    if abs(alphabet.offset) * 128 * taps > INT32_MAX:
        raise ValueError(f"offset * sum of {taps} activations leaves int32")
    if max(np.abs(b).max(initial=0) for b in (folded, folded - accumulation.bias)) > INT32_MAX:
        raise ValueError("a folded bias leaves int32")


def _weighted_tables(accumulation: Accumulation, rows: Array, layout: PackedFormat) -> dict[str, Array]:
    """Tables of a weighted kernel; `rows` are the levels (out, taps) in the order of the activations."""
    alphabet = accumulation.weights.alphabet
    packed = layout.pack(alphabet.encode(rows), alphabet.neutral_code).reshape(-1)
    return {
        "weights": packed if layout.row_align == 1 else packed.view("<u4"),
        **_channel_tables(accumulation),
    }


def _channel_tables(accumulation: Accumulation) -> dict[str, Array]:
    """Tables of a weighted kernel besides its weights."""
    stage, channels = accumulation.stage, len(accumulation.bias)
    tables: dict[str, Array] = {
        "bias": accumulation.folded_bias.astype(np.int32),
        "stage.multiplier": np.broadcast_to(stage.multiplier, (channels,)).astype(np.int32),
    }
    if stage.per_channel_clamp:
        tables["stage.channel_low"] = np.broadcast_to(stage.low, (channels,)).astype(np.int8)
        tables["stage.channel_high"] = np.broadcast_to(stage.high, (channels,)).astype(np.int8)
    return tables


def _weighted_parameters(accumulation: Accumulation, layout: PackedFormat, taps: int) -> dict[str, int]:
    alphabet = accumulation.weights.alphabet
    return _stage_parameters(accumulation) | {
        "row_size": layout.row_bytes(taps) // layout.row_align,
        "step": alphabet.step,
        "offset": alphabet.offset,
    }


def _stage_parameters(accumulation: Accumulation) -> dict[str, int]:
    stage = accumulation.stage
    return {
        "stage.shift": stage.shift,
        "stage.zero_point": stage.zero_point,
        "stage.low": int(stage.low.min()),
        "stage.high": int(stage.high.max()),
    }


def _linear(op: IntegerLinear, features: frozenset[str], order: Order | None, sparse: bool) -> KernelCall:
    levels = op.accumulation.weights.levels
    if order is not None:
        levels = levels[:, order.natural_index()]
    outputs, inputs = levels.shape
    bits = op.accumulation.weights.alphabet.bits
    layout = weight_format(bits, features)
    prove(op.accumulation, inputs)
    gaps = _gaps(op, levels, layout, features) if sparse else None
    if gaps is not None:
        return _linear_gaps(op, gaps)
    suffix = "_smlad" if layout.name == "lanes" else ""
    parameters = _weighted_parameters(op.accumulation, layout, inputs)
    return KernelCall(
        template=f"linear_wNa8{suffix}.c.j2",
        function=f"dq_linear_w{bits}a8{suffix}",
        variant={"bits": bits},
        parameters=parameters | {"inputs": inputs, "outputs": outputs},
        tables=_weighted_tables(op.accumulation, levels, layout),
        scratch_bytes=_operand_bytes(layout, inputs) if suffix else 0,
    )


def _gaps(
    op: IntegerConv2d | IntegerLinear, rows: Array, layout: PackedFormat, features: frozenset[str]
) -> PackedGaps | None:
    """Levels (out, taps), in the order of the activations, as sparse weights, where that is better."""
    dense_bytes = len(rows) * layout.row_bytes(rows.shape[1])
    return choose_gaps(rows, op.accumulation.weights.alphabet, dense_bytes, features, op.kind)


def _linear_gaps(op: IntegerLinear, gaps: PackedGaps) -> KernelCall:
    return KernelCall(
        template="linear_gaps_a8.c.j2",
        function=f"dq_linear_gaps{gaps.layout.bits}_a8",
        variant={"gap_bits": gaps.layout.bits},
        parameters=_stage_parameters(op.accumulation) | {"outputs": len(op.accumulation.bias)},
        tables={"weights": gaps.data, **_channel_tables(op.accumulation)},
    )


def _operand_bytes(layout: PackedFormat, taps: int) -> int:
    """Bytes of the expanded activations a row of `lanes` meets: two for each code, padding included."""
    return layout.row_bytes(taps) // layout.unit_bytes * layout.codes_per_unit * 2


def _conv2d(op: IntegerConv2d, shape: Shape, features: frozenset[str], sparse: bool) -> KernelCall:
    out, group_inputs, *kernel = op.weight_shape
    bits = op.accumulation.weights.alphabet.bits
    depthwise = op.groups == shape[0] and op.groups > 1
    layout = dense(bits) if depthwise else weight_format(bits, features)
    taps = group_inputs * kernel[0] * kernel[1]
    prove(op.accumulation, taps)
    rows = op.levels.transpose(0, 2, 3, 1).reshape(out, taps)
    geometry = pool_parameters(op.window, shape)
    channels = geometry.pop("channels")
    direct = kernel == [1, 1] and not any(op.window.pads)
    parameters = (
        _weighted_parameters(op.accumulation, layout, taps)
        | geometry
        | {
            "in_channels": channels,
            "out_channels": out,
            "groups": op.groups,
            "group_inputs": group_inputs,
            "group_outputs": out // op.groups,
            "taps": taps,
            "input_zero_point": op.accumulation.input_zero_point,
            "direct": int(direct),
        }
    )
    family, suffix = (
        ("depthwise2d", "") if depthwise else ("conv2d", "_smlad" if layout.name == "lanes" else "")
    )
    call = KernelCall(
        template=f"{family}_wNa8{suffix}.c.j2",
        function=f"dq_{family}_w{bits}a8{suffix}",
        variant={"bits": bits},
        parameters=parameters,
        tables=_weighted_tables(op.accumulation, rows, layout),
    )
    if depthwise:
        return replace(call, scratch_bytes=2 * taps)
    window_bytes = 0 if direct else taps
    gaps = _gaps(op, rows, layout, features) if sparse else None
    if gaps is not None:
        block = 2 if suffix else _block(taps, geometry["out_width"])
        return _conv2d_gaps(call, gaps, block, block * window_bytes)
    if suffix:
        return _with_scratch(
            call, 2, {"codes_at": 2 * _operand_bytes(layout, taps), "windows_at": window_bytes}
        )
    block = _block(taps, geometry["out_width"])
    code_bytes = 0 if bits == 8 else 2 * taps
    parts = {"sums_at": 4 * block, "codes_at": code_bytes, "windows_at": block * window_bytes}
    return _with_scratch(call, block, parts)


def _block(taps: int, out_width: int) -> int:
    """Output pixels computed together, in pairs."""
    return min(out_width, -(-max(2, _WINDOW_BYTES // taps) // 2) * 2)


def _conv2d_gaps(dense_call: KernelCall, gaps: PackedGaps, block: int, scratch_bytes: int) -> KernelCall:
    """The call of a dense kernel with sparse weights instead; its scratch memory holds copied windows."""
    return replace(
        dense_call,
        template="conv2d_gaps_a8.c.j2",
        function=f"dq_conv2d_gaps{gaps.layout.bits}_a8",
        variant={"gap_bits": gaps.layout.bits},
        parameters={**dense_call.parameters, "row_size": 0, "block": block},  # rows differ in size
        tables={**dense_call.tables, "weights": gaps.data},
        scratch_bytes=scratch_bytes,
    )


def _with_scratch(call: KernelCall, block: int, parts: Mapping[str, int]) -> KernelCall:
    """Lay parts of the scratch memory (offset member: bytes) one after the other, each at a word."""
    offsets, end = {"block": block}, 0
    for member, size in parts.items():
        offsets[member] = end
        end += -(-size // 4) * 4
    return replace(call, parameters={**call.parameters, **offsets}, scratch_bytes=end)

"""Convolutions for cores without DSP: sums of four inputs looked up by the bits of the weights.

Eight windows share four words, two windows each, and thus every lookup. The tables of a chunk of inputs
take 64 bytes of scratch memory per input and serve all output channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployq.arithmetic import INT8_MAX, INT8_MIN, INT32_MAX, fits_lanes, multiplier_split
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.lane_stage import lane_stage, sum_stage
from deployq.codegen.kernels.weighted import ConvolutionLayer, channel_tables, stage_parameters
from deployq.codegen.packing import description
from deployq.codegen.packing.planes import BYTE_INPUTS, PlaneFormat
from deployq.ops import KernelCall
from deployq.ops.accumulate import Accumulation
from deployq.ops.base import Array

#: Bytes of scratch memory for tables and sums together; two copied windows come on top. Tables of windows of
#: 3x3 pixels of 16 channels fit.
_SCRATCH_BYTES = 9216

#: Bytes of tables per input: sixteen rows of four words for four inputs.
_TABLE_BYTES = 64

#: Bytes of sums per output channel of a slice: eight windows.
_SUM_BYTES = 32

#: Windows computed together.
_BLOCK = 8

#: Windows copied together where their taps are no neighbours.
_COPIES = 2

#: Taps of a window that is looked up all at once, at most: the sum of the inputs has to fit a lane.
_MOST_WHOLE_TAPS = 256

#: Share of the scratch memory for sums at most, where they are needed. The output channels whose sums fit
#: are a slice; the tables have to be built again for every slice.
_SUMS_SHARE = 2

#: Bits of sums that Armv6-M requantizes by 32-bit products, at most; they start with half their range.
_MOST_SUM_BITS = 24

#: Planes of the low part of a code of more than four bits; each part is summed in lanes of its own.
_LOW_PLANES = 4


@dataclass(frozen=True)
class Part:
    """Planes that are summed together: level = step * field + start, field = (code >> low) mod 2^planes."""

    low: int
    planes: int
    start: int

    def levels(self, codes: Array, step: int) -> Array:
        """The part's share of the levels of codes, in units of 2^low."""
        return step * ((codes.astype(np.int64) >> self.low) & ((1 << self.planes) - 1)) + self.start


@dataclass(frozen=True)
class Plan:
    """How a layer is cut: inputs of a chunk, output channels of a slice, and parts of a code."""

    chunk: int
    slice: int
    parts: tuple[Part, ...]


def conv2d(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The table kernel of a convolution; None for depthwise ones, other cores, and unproven ranges."""
    if layer.depthwise or layer.bits > _widest_bits(core):
        return None
    return _whole(layer, core) or _in_parts(layer, core)


def _whole(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The kernel of whole windows for Armv6-M; None where windows have to be summed in parts."""
    chunk = -(-layer.taps // BYTE_INPUTS) * BYTE_INPUTS
    if "armv7m" in core.features or layer.bits > _LOW_PLANES or layer.taps > _MOST_WHOLE_TAPS:
        return None
    stage = lane_stage(layer.accumulation)
    if stage is None or chunk * _TABLE_BYTES > core.scratch(_SCRATCH_BYTES):
        return None
    alphabet = layer.accumulation.weights.alphabet
    geometry = _geometry(layer)
    # A sum of odd levels is 2 * (sum of middle levels + half the sum of the inputs) + its last bit.
    start, doublings = alphabet.offset, alphabet.step - 1
    if stage.wide:
        start, doublings = (alphabet.offset - 1) // 2, 0
    layout = PlaneFormat(layer.bits, chunk)
    members = {"chunk": chunk, "slice": geometry["group_outputs"], "start": start, "doublings": doublings}
    return KernelCall(
        template="conv2d_wNa8_planes_whole.c.j2",
        function=f"dq_conv2d_w{layer.bits}a8_planes_{'wide' if stage.wide else 'whole'}",
        variant={"bits": layer.bits, "wide": int(stage.wide)},
        parameters=stage.parameters
        | geometry
        | {"row_size": layout.row_bytes(layer.taps), "high_start": 0}
        | members
        | {"tables_at": 0, "sums_at": 0, "copies_at": chunk * _TABLE_BYTES},
        tables={"weights": layout.pack(alphabet.encode(layer.rows)).reshape(-1)} | stage.tables,
        weights_format=description(layout),
        scratch_bytes=chunk * (_TABLE_BYTES + _COPIES),
        lead=_lead(geometry, reads_once=geometry["groups"] == 1),
    )


def _in_parts(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The kernel for any number of taps and any output stage; None for unproven ranges."""
    plan = plan_layer(layer, core)
    if plan is None:
        return None
    halves = "armv7m" not in core.features
    alphabet = layer.accumulation.weights.alphabet
    layout = PlaneFormat(layer.bits, plan.chunk)
    table_bytes = _TABLE_BYTES * plan.chunk
    sum_bytes = 0 if one_pass(layer, plan) else _SUM_BYTES * plan.slice
    geometry = _geometry(layer)
    stage, tables = plane_stage(layer.accumulation, halves=False), channel_tables(layer.accumulation)
    tables = {f"out.{name}": values for name, values in tables.items()}
    if halves:
        found = sum_stage(layer.accumulation, _MOST_SUM_BITS) if sum_bytes else None
        stage, tables = (found.parameters, found.tables) if found else (stage | {"out.plain": 0}, tables)
    return KernelCall(
        template="conv2d_wNa8_planes.c.j2",
        function=f"dq_conv2d_w{layer.bits}a8_planes{'_halves' if halves else ''}",
        variant={
            "bits": layer.bits,
            "halves": int(halves),
            "outputs": "sums" if halves else "lanes",
        },
        parameters=stage
        | geometry
        | {
            "row_size": layout.row_bytes(layer.taps),
            "chunk": plan.chunk,
            "slice": plan.slice,
            "doublings": alphabet.step - 1,
            "high_start": plan.parts[0].start,
            "start": plan.parts[-1].start,
            "tables_at": 0,
            "sums_at": table_bytes,
            "copies_at": table_bytes + sum_bytes,
        },
        tables={"weights": layout.pack(alphabet.encode(layer.rows)).reshape(-1)} | tables,
        weights_format=description(layout),
        scratch_bytes=table_bytes + sum_bytes + _COPIES * plan.chunk,
        lead=_lead(geometry, reads_once=plan.slice == geometry["out_channels"]),
    )


def _widest_bits(core: Core) -> int:
    """Widest codes for which the tables beat the portable kernel, at any number of output channels.

    Instructions per MAC, 64 to 64 channels of 25x5 pixels: on Armv7-M 1.0 against 4.5 at 2 bits, 3.1 against
    4.6 at 5, 4.2 against 3.7 at 8; on Armv6-M 1.3 against 9.5 at 2 bits, 6.7 against 8.6 at 8.
    """
    if "armv7m" in core.features:
        return 7
    return 8 if "armv6m" in core.features else 0


def _geometry(layer: ConvolutionLayer) -> dict[str, int]:
    """Where windows lie; an image of pixels that are windows themselves is one long row."""
    geometry = {key: value for key, value in layer.geometry.items() if key != "direct"}
    if layer.direct and layer.op.window.strides == (1, 1):
        geometry["in_width"] = geometry["out_width"] = geometry["out_width"] * geometry["out_height"]
        geometry["in_height"] = geometry["out_height"] = 1
    return geometry


def _lead(geometry: dict[str, int], *, reads_once: bool) -> int:
    """Bytes by which the output must start before the input to overwrite it, see `KernelCall`.

    Args:
        geometry: members of the parameter struct.
        reads_once: every input of a block of windows is in tables before the block's first output is
            written; else inputs are read again for the next output channels.
    """
    pixels = np.arange(geometry["out_height"] * geometry["out_width"])
    rows, columns = np.divmod(pixels, geometry["out_width"])
    y = np.clip(rows * geometry["stride_height"] - geometry["pad_top"], 0, geometry["in_height"])
    x = np.clip(columns * geometry["stride_width"] - geometry["pad_left"], 0, geometry["in_width"])
    lowest = (y * geometry["in_width"] + x) * geometry["in_channels"]
    unread = np.minimum.accumulate(lowest[::-1])[::-1]  # lowest input byte of this window and those after it
    begun = pixels[::_BLOCK]
    written = np.minimum(begun + _BLOCK, len(pixels)) * geometry["out_channels"]
    if reads_once:
        begun, written = begun[1:], written[:-1]
    return int(max(written - unread[begun], default=0))


def one_pass(layer: ConvolutionLayer, plan: Plan) -> bool:
    """Whether the lanes of a single chunk are the whole sums."""
    return len(plan.parts) == 1 and layer.taps <= plan.chunk


def plane_stage(accumulation: Accumulation, halves: bool) -> dict[str, int]:
    """Scalar members of `dq_plane_stage_params`.

    Args:
        accumulation: of the layer.
        halves: the multiplier is used in two parts, for cores without a long multiplication.
    """
    stage = accumulation.stage
    parameters = stage_parameters(accumulation)
    plain = (stage.shift == 0 or not halves) and not stage.per_channel_clamp
    plain = plain and (parameters["stage.low"], parameters["stage.high"]) == (INT8_MIN, INT8_MAX)
    split = None
    if halves and plain:
        lowest, highest = accumulation.extremes()
        split = multiplier_split(
            int(lowest.min()), int(highest.max()), int(np.max(stage.multiplier)), stage.zero_point
        )
        plain = split is not None
    members = parameters | {"plain": int(plain), "split": split or 0}
    return {f"out.{name}": value for name, value in members.items()}


def plan_layer(layer: ConvolutionLayer, core: Core) -> Plan | None:
    """The longest chunks whose sums are proven to fit lanes and whose tables fit the scratch memory.

    Args:
        layer: not depthwise.
        core: and preference.
    """
    outputs = layer.geometry["group_outputs"]
    scratch_bytes = core.scratch(_SCRATCH_BYTES)
    parts = code_parts(layer)
    whole = -(-layer.taps // BYTE_INPUTS) * BYTE_INPUTS
    if len(parts) == 1 and whole * _TABLE_BYTES <= scratch_bytes and _proven(layer, parts, whole):
        return Plan(whole, outputs, parts)
    channels = min(outputs, scratch_bytes // _SUMS_SHARE // _SUM_BYTES)
    inputs = (scratch_bytes - channels * _SUM_BYTES) // _TABLE_BYTES
    longest = min(inputs // BYTE_INPUTS * BYTE_INPUTS, whole)
    for chunk in range(longest, 0, -BYTE_INPUTS):
        if _proven(layer, parts, chunk):
            chunks = -(-layer.taps // chunk)
            even = -(-layer.taps // (chunks * BYTE_INPUTS)) * BYTE_INPUTS
            return Plan(even if _proven(layer, parts, even) else chunk, channels, parts)
    return None


def code_parts(layer: ConvolutionLayer) -> tuple[Part, ...]:
    """The parts of the layer's codes, the high planes first; their starts add up to the lowest level."""
    alphabet = layer.accumulation.weights.alphabet
    if layer.bits <= _LOW_PLANES:
        return (Part(0, layer.bits, alphabet.offset),)
    fields = 1 << _LOW_PLANES

    def largest(start: int) -> int:
        low = max(abs(start), abs(start + alphabet.step * (fields - 1)))
        high_start = (alphabet.offset - start) // fields
        highest = alphabet.step * ((alphabet.levels - 1) >> _LOW_PLANES)
        return max(low, abs(high_start), abs(high_start + highest))

    starts = [start for start in range(-2 * fields, fields) if (alphabet.offset - start) % fields == 0]
    start = min(starts, key=largest)
    high = Part(_LOW_PLANES, layer.bits - _LOW_PLANES, (alphabet.offset - start) // fields)
    return (high, Part(0, _LOW_PLANES, start))


def _proven(layer: ConvolutionLayer, parts: tuple[Part, ...], chunk: int) -> bool:
    """Whether the lanes of every chunk are exact, and the sums of lanes stay in int32 in any order."""
    alphabet = layer.accumulation.weights.alphabet
    codes = alphabet.encode(layer.rows)
    sums = np.maximum(np.abs(layer.accumulation.folded_bias), 1 << (_MOST_SUM_BITS - 1))
    for part in parts:
        levels = part.levels(codes, alphabet.step)
        if not fits_lanes(levels, chunk):
            return False
        sums = sums + (128 * np.abs(levels).sum(axis=1) << part.low)
    return int(sums.max()) <= INT32_MAX

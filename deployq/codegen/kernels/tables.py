"""Convolutions for cores without DSP: sums of four inputs looked up by the bits of the weights.

Eight windows share four words, two windows each, and thus every lookup. The tables of a chunk of inputs
take 64 bytes of scratch memory per input and serve all output channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployq.arithmetic import INT8_MAX, INT8_MIN, INT32_MAX, fits_lanes, multiplier_split
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.weighted import ConvolutionLayer, channel_tables, stage_parameters
from deployq.codegen.packing.planes import BYTE_INPUTS, PlaneFormat
from deployq.ops import KernelCall
from deployq.ops.accumulate import Accumulation
from deployq.ops.base import Array

#: Bytes of scratch memory for tables and sums together; two copied windows come on top. Small images come
#: late in a network, when its largest activations are gone: they may use twice as much, but not on Armv6-M,
#: whose devices have little memory.
_SCRATCH_BYTES = 4096
_SMALL_IMAGE_SCRATCH_BYTES = 8192

#: Output pixels of a small image at most.
_SMALL_IMAGE = 64

#: Bytes of tables per input: sixteen rows of four words for four inputs.
_TABLE_BYTES = 64

#: Bytes of sums per output channel of a slice: eight windows.
_SUM_BYTES = 32

#: Share of the scratch memory for sums at most, where they are needed. The output channels whose sums fit
#: are a slice; the tables have to be built again for every slice.
_SUMS_SHARE = 2

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
    plan = plan_layer(layer, core)
    stage = plane_stage(layer.accumulation, halves="armv7m" not in core.features)
    if plan is None:
        return None
    alphabet = layer.accumulation.weights.alphabet
    layout = PlaneFormat(layer.bits, plan.chunk)
    chunk = min(plan.chunk, -(-layer.taps // BYTE_INPUTS) * BYTE_INPUTS)
    table_bytes = _TABLE_BYTES * chunk
    sum_bytes = 0 if one_pass(layer, plan) else _SUM_BYTES * plan.slice
    geometry = _geometry(layer)
    tables = {f"out.{name}": values for name, values in channel_tables(layer.accumulation).items()}
    return KernelCall(
        template="conv2d_wNa8_planes.c.j2",
        function=f"dq_conv2d_w{layer.bits}a8_planes{'' if 'armv7m' in core.features else '_halves'}",
        variant={"bits": layer.bits, "halves": int("armv7m" not in core.features), "format": layout.name},
        parameters=stage
        | geometry
        | {
            "row_size": layout.row_bytes(layer.taps),
            "chunk": chunk,
            "slice": plan.slice,
            "doublings": alphabet.step - 1,
            "high_start": plan.parts[0].start,
            "start": plan.parts[-1].start,
            "tables_at": 0,
            "sums_at": table_bytes,
            "copies_at": table_bytes + sum_bytes,
        },
        tables={"weights": layout.pack(alphabet.encode(layer.rows)).reshape(-1)} | tables,
        scratch_bytes=table_bytes + sum_bytes + 2 * chunk,
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
        core: and preference; on Armv7-M layers of small images may use more scratch memory.
    """
    geometry = layer.geometry
    outputs = geometry["group_outputs"]
    small = geometry["out_height"] * geometry["out_width"] <= _SMALL_IMAGE
    roomy = small and "armv7m" in core.features
    scratch_bytes = core.scratch(_SMALL_IMAGE_SCRATCH_BYTES if roomy else _SCRATCH_BYTES)
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
    sums = np.abs(layer.accumulation.folded_bias)
    for part in parts:
        levels = part.levels(codes, alphabet.step)
        if not fits_lanes(levels, chunk):
            return False
        sums = sums + (128 * np.abs(levels).sum(axis=1) << part.low)
    return int(sums.max()) <= INT32_MAX

"""Fully connected layers for cores without DSP, without multiplication: lookups in tables of partial sums.

A table holds all 256 sums of eight inputs, chosen by a byte of a bit plane of the weights: one lookup
does eight multiplications by a bit. The tables of a chunk of inputs serve all output channels, so
they pay where there are enough of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployq.arithmetic import INT32_MAX
from deployq.codegen.kernels import linear_halfwords, linear_long
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.linear_costs import portable_cost, tables_cost
from deployq.codegen.kernels.tables import plane_stage
from deployq.codegen.kernels.weighted import LinearLayer, channel_tables
from deployq.codegen.packing import description
from deployq.codegen.packing.plane_chunks import PlaneChunkFormat
from deployq.ops import KernelCall
from deployq.ops.base import Array

#: Bytes of scratch memory for tables and sums together.
_SCRATCH_BYTES = 4096

#: Tables of a chunk where the scratch memory is large enough; else one at a time.
TABLES = 4

#: 256 sums of 16 bits.
_TABLE_BYTES = 512

#: Instructions relative to the best other kernel's that are worth the scratch memory.
_WORTHWHILE = 0.9

#: A sum of 32 bits per output channel of a slice.
_SUM_BYTES = 4


@dataclass(frozen=True)
class Plan:
    """How a layer is cut.

    Attributes:
        tables: at a time.
        slice: output channels whose sums fit the scratch memory besides.
    """

    tables: int
    slice: int

    @property
    def scratch_bytes(self) -> int:
        """Of tables and sums."""
        return self.tables * _TABLE_BYTES + self.slice * _SUM_BYTES


def linear(layer: LinearLayer, core: Core) -> KernelCall | None:
    """The table kernel of a fully connected layer; None for other cores, and where it does not pay."""
    if not core.features & {"armv7m", "armv6m"}:
        return None
    plan = plan_layer(layer, core)
    layout = weight_format(layer, plan)
    bias = shifted_bias(layer)
    if bias is None or not pays(layer, core, plan, layout):
        return None
    halves = "armv7m" not in core.features
    alphabet = layer.accumulation.weights.alphabet
    tables = channel_tables(layer.accumulation) | {"bias": bias}
    return KernelCall(
        template="linear_wNa8_tables.c.j2",
        function=f"dq_linear_w{layer.bits}a8_tables{'_halves' if halves else ''}",
        variant={
            "bits": layer.bits,
            "halves": int(halves),
            "channels": layout.channels,
        },
        parameters=plane_stage(layer.accumulation, halves)
        | layer.sizes
        | {
            "step": alphabet.step,
            "offset": alphabet.offset,
            "tables": plan.tables,
            "slice": plan.slice,
        },
        tables={"weights": layout.pack(alphabet.encode(layer.rows))}
        | {f"out.{name}": values for name, values in tables.items()},
        weights_format=description(layout),
        scratch_bytes=plan.scratch_bytes,
        lead=-layer.taps if plan.slice >= layer.sizes["outputs"] else None,
    )


def pays(layer: LinearLayer, core: Core, plan: Plan, layout: PlaneChunkFormat) -> bool:
    """Whether the estimate of instructions is a tenth lower than that of the best other kernel."""
    outputs = layer.sizes["outputs"]
    others = [portable_cost(core, layer.bits, layer.taps, outputs)]
    others += [cost for cost in (linear_halfwords.cost(layer, core), linear_long.cost(layer, core)) if cost]
    return tables_cost(core, layout, layer.taps, outputs, plan.slice) < _WORTHWHILE * min(others)


def weight_format(layer: LinearLayer, plan: Plan) -> PlaneChunkFormat:
    """The flash format of a plan."""
    return PlaneChunkFormat(layer.bits, plan.tables, turn_channels(layer.bits))


def turn_channels(bits: int) -> int:
    """Output channels of a turn of the loop: on Armv6-M their bytes are at most 31 behind a pointer."""
    return min(4, 1 << (32 // (TABLES * bits)).bit_length() - 1)


def plan_layer(layer: LinearLayer, core: Core) -> Plan:
    """As many tables as fit beside the sums of many output channels, and slices of equal size."""
    scratch_bytes = core.scratch(_SCRATCH_BYTES)
    turn = turn_channels(layer.bits)
    whole = layer.taps > (TABLES - 1) * 8 and scratch_bytes >= _SCRATCH_BYTES
    tables = TABLES if whole else 1
    outputs = layer.sizes["outputs"]
    largest = (scratch_bytes - tables * _TABLE_BYTES) // _SUM_BYTES // turn * turn
    slices = -(-outputs // largest)
    return Plan(tables, -(-outputs // (slices * turn)) * turn)


def shifted_bias(layer: LinearLayer) -> Array | None:
    """The bias per output channel for inputs + 128; None where an intermediate could leave int32."""
    alphabet = layer.accumulation.weights.alphabet
    levels = layer.rows.astype(np.int64)
    bias: Array = layer.accumulation.folded_bias - 128 * levels.sum(axis=1)
    products = 255 * alphabet.step * alphabet.encode(layer.rows).astype(np.int64).sum(axis=1)
    offsets = 255 * abs(alphabet.offset) * layer.taps
    if int((np.abs(bias) + products).max()) + offsets > INT32_MAX:
        return None
    return bias.astype(np.int32)

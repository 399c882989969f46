"""Fully connected layers of 6 to 8 bits for cores with a long multiplication but without DSP.

A 64-bit sum holds two: an input times code0 + 2^24 * code1 adds to both. The first sum of a chunk of
inputs is proven to fit 24 bits; the second has the other 40.
"""

from __future__ import annotations

import numpy as np

from deployq.arithmetic import INT32_MAX, Int64Array, accumulator_extremes
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.linear_costs import long_cost
from deployq.codegen.kernels.tables import plane_stage
from deployq.codegen.kernels.weighted import LinearLayer, centred_members, channel_tables
from deployq.codegen.packing import description
from deployq.codegen.packing.channel_quads import QUAD, ChannelQuadFormat
from deployq.ops import KernelCall

#: Narrower codes have kernels that take fewer instructions.
_NARROWEST_BITS = 6

#: Bits of the first sum.
_FIRST_BITS = 24


def linear(layer: LinearLayer, core: Core) -> KernelCall | None:
    """The kernel; None for other cores and widths, where it takes too much flash, and for unproven ranges."""
    if not _applies(layer, core):
        return None
    alphabet = layer.accumulation.weights.alphabet
    centre = alphabet.levels // 2
    codes = alphabet.encode(layer.rows)
    chunk = longest_chunk(codes.astype(np.int64) - centre)
    if chunk is None:
        return None
    tables = {f"out.{name}": values for name, values in channel_tables(layer.accumulation).items()}
    return KernelCall(
        template="linear_w8a8_long.c.j2",
        function="dq_linear_w8a8_long",
        variant={"bits": 8, "halves": 0},
        parameters=plane_stage(layer.accumulation, halves=False) | centred_members(layer, centre, chunk),
        tables={"weights": ChannelQuadFormat(centre).pack(codes)} | tables,
        weights_format=description(ChannelQuadFormat(centre)),
        scratch_bytes=4 * -(-layer.taps // chunk),
    )


def cost(layer: LinearLayer, core: Core) -> float | None:
    """Estimated instructions; None where the kernel does not apply."""
    return long_cost(layer.taps, layer.sizes["outputs"]) if _applies(layer, core) else None


def _applies(layer: LinearLayer, core: Core) -> bool:
    if "armv7m" not in core.features or layer.bits < _NARROWEST_BITS or takes_too_much_flash(layer, core):
        return False
    alphabet = layer.accumulation.weights.alphabet
    centre = alphabet.levels // 2
    distances = np.abs(alphabet.encode(layer.rows).astype(np.int64) - centre)
    sums = np.abs(layer.accumulation.folded_bias) + 128 * alphabet.step * distances.sum(axis=1)
    common = 128 * layer.taps * max(centre, abs(alphabet.step * centre + alphabet.offset))
    return int(sums.max()) + common <= INT32_MAX


def takes_too_much_flash(layer: LinearLayer, core: Core) -> bool:
    """Whether bytes for codes and for channels of padding are more than the core's preference allows."""
    outputs = layer.sizes["outputs"]
    padded = -(-outputs // QUAD) * QUAD
    return 8 * padded > core.field_overhead * layer.bits * outputs


def longest_chunk(distances: Int64Array) -> int | None:
    """Inputs of the longest chunk whose first sums are proven to fit; None if not even 4 inputs' do.

    Args:
        distances: code - centre, shape (channels, inputs).
    """
    chunk = distances.shape[1]
    while chunk >= QUAD and not _fits(distances, chunk):
        chunk = chunk // 2 // QUAD * QUAD
    return chunk if chunk and _fits(distances, chunk) else None


def _fits(distances: Int64Array, chunk: int) -> bool:
    """Whether the first sum of every chunk fits its bits, for every x of int8."""
    first = distances[::2]
    nothing = np.zeros(len(first), np.int64)
    limit = 1 << (_FIRST_BITS - 1)
    for begin in range(0, first.shape[1], chunk):
        lowest, highest = accumulator_extremes(first[:, begin : begin + chunk], 0, nothing)
        if lowest.min() < -limit or highest.max() >= limit:
            return False
    return True

"""Fully connected layers for cores without DSP: one multiplication for two output channels.

A word holds the codes of two channels; an input times code0 + 2^16 * code1 adds to two sums in the
halves of an accumulator. The sums of a chunk of inputs are proven to fit 16 bits.
"""

from __future__ import annotations

import numpy as np

from deployq.arithmetic import INT32_MAX, fits_lanes
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.linear_costs import halfwords_cost
from deployq.codegen.kernels.tables import plane_stage
from deployq.codegen.kernels.weighted import LinearLayer, centred_members, channel_tables
from deployq.codegen.packing import description
from deployq.codegen.packing.channel_pairs import ChannelPairFormat
from deployq.ops import KernelCall

#: Wider codes leave no room for sums in the halves of a word.
_WIDEST_BITS = 5


def linear(layer: LinearLayer, core: Core) -> KernelCall | None:
    """The kernel of a fully connected layer; None for other cores, wide codes, and unproven ranges."""
    if not core.features & {"armv7m", "armv6m"} or layer.bits > _WIDEST_BITS:
        return None
    halves = "armv7m" not in core.features
    alphabet = layer.accumulation.weights.alphabet
    layout = ChannelPairFormat(layer.bits)
    plan = _plan(layer, layout.inputs)
    if plan is None:
        return None
    centre, chunk = plan
    tables = {f"out.{name}": values for name, values in channel_tables(layer.accumulation).items()}
    return KernelCall(
        template="linear_wNa8_halfwords.c.j2",
        function=f"dq_linear_w{layer.bits}a8_halfwords{'_halves' if halves else ''}",
        variant={"bits": layer.bits, "halves": int(halves)},
        parameters=plane_stage(layer.accumulation, halves) | centred_members(layer, centre, chunk),
        tables={"weights": layout.pack(alphabet.encode(layer.rows))} | tables,
        weights_format=description(layout),
        scratch_bytes=4 * -(-layer.taps // chunk),
    )


def cost(layer: LinearLayer, core: Core) -> float | None:
    """Estimated instructions on a core without DSP; None where the kernel does not apply."""
    if layer.bits > _WIDEST_BITS:
        return None
    word_inputs = ChannelPairFormat(layer.bits).inputs
    plan = _plan(layer, word_inputs)
    return None if plan is None else halfwords_cost(core, layer.taps, len(layer.rows), word_inputs, plan[1])


def _plan(layer: LinearLayer, unit: int) -> tuple[int, int] | None:
    """(centre, chunk): the longest proven chunk, a multiple of `unit` inputs, over two middle codes.

    None where not even one word fits, or where a sum could leave int32.
    """
    alphabet = layer.accumulation.weights.alphabet
    codes = alphabet.encode(layer.rows).astype(np.int64)
    middle = alphabet.levels // 2
    plans = []
    for centre in {middle - 1, middle}:
        for chunk in range(-(-layer.taps // unit) * unit, 0, -unit):
            if fits_lanes(codes - centre, chunk):
                plans.append((chunk, centre))
                break
    if not plans:
        return None
    chunk, centre = max(plans)
    rest = abs(alphabet.step * centre + alphabet.offset) * 128 * layer.taps
    products = alphabet.step * 128 * np.abs(codes - centre).sum(axis=1)
    if int((np.abs(layer.accumulation.folded_bias) + products).max()) + rest > INT32_MAX:
        return None
    return centre, chunk

"""Depthwise convolution for cores without DSP: two output rows at a time in the halves of words.

Four neighbouring channels of the input are expanded into words, a few rows at a time, padded with the
zero point. A word holds the pixels that two neighbouring output rows see at the same tap, so that one
multiplication serves both, where the sums are proven to fit 16 bits; else it holds one pixel.
"""

from __future__ import annotations

import numpy as np

from deployq.arithmetic import fits_lanes
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.tables import plane_stage
from deployq.codegen.kernels.weighted import ConvolutionLayer, channel_tables
from deployq.codegen.packing import description
from deployq.codegen.packing.streams import dense
from deployq.ops import KernelCall

#: Channels expanded together.
_CHANNELS = 4

#: Layers whose expanded rows need more scratch memory than this are left to the portable kernel.
_LARGEST_SCRATCH_BYTES = 8192


def conv2d(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The kernel of a depthwise convolution; None where it does not apply.

    It applies to four channels or more with one filter each.
    """
    channels = layer.shape[0]
    if not core.features & {"armv7m", "armv6m"} or not layer.depthwise or channels < _CHANNELS:
        return None
    halves = "armv7m" not in core.features
    stage = plane_stage(layer.accumulation, halves)
    window = layer.op.window
    height, width = window.kernel
    out_width = layer.geometry["out_width"]
    columns = (out_width - 1) * window.strides[1] + (width - 1) * window.dilations[1] + 1
    weight_bytes = 4 * layer.taps * _CHANNELS
    small = window.kernel == (3, 3) and window.dilations[1] == 1
    shape = {1: "3x3", 2: "3x3s2"}.get(window.strides[1], "any") if small else "any"
    # The assembly form for stride 1 runs up to two columns over the end.
    expanded_bytes = 4 * _CHANNELS * height * (columns + (2 if shape == "3x3" else 0))
    scratch_bytes = weight_bytes + expanded_bytes
    if layer.op.weight_shape[0] != channels or scratch_bytes > _LARGEST_SCRATCH_BYTES:
        return None
    rows = 2 if fits_lanes(layer.rows, layer.taps) else 1
    kept = rows * window.strides[0]
    kept = kept if window.dilations[0] == 1 and kept < height else height
    alphabet = layer.accumulation.weights.alphabet
    layout = dense(layer.bits)
    geometry = layer.geometry
    unused = {"groups", "group_inputs", "group_outputs", "taps", "direct"}
    codes = layout.pack(alphabet.encode(layer.rows), alphabet.neutral_code)
    tables = {f"out.{name}": values for name, values in channel_tables(layer.accumulation).items()}
    return KernelCall(
        template="depthwise2d_wNa8_pairs.c.j2",
        function=f"dq_depthwise2d_{shape}_w{layer.bits}a8_pairs{'_halves' if halves else ''}",
        variant={"bits": layer.bits, "shape": shape, "halves": int(halves)},
        parameters=stage
        | {name: value for name, value in geometry.items() if name not in unused}
        | {
            "row_size": layout.row_bytes(layer.taps),
            "step": alphabet.step,
            "offset": alphabet.offset,
            "rows": rows,
            "kept": kept,
            "columns": columns,
            "expanded_at": weight_bytes,
        },
        tables={"weights": np.ascontiguousarray(codes).reshape(-1)} | tables,
        weights_format=description(layout),
        scratch_bytes=scratch_bytes,
        lead="same" if _read_ahead(layer, rows, kept) else None,
    )


def _read_ahead(layer: ConvolutionLayer, rows: int, kept: int) -> bool:
    """Whether rows of the input are expanded before outputs overwrite them, pixel over pixel.

    Args:
        layer: with one filter per channel.
        rows: of the output, computed together.
        kept: first kernel row of one pass that is a row of the next one, or the number of kernel rows.
    """
    window, geometry = layer.op.window, layer.geometry
    again = (window.kernel[0] - kept) * window.dilations[0] - window.pads[0]
    return all(
        max(row * window.strides[0] + again, 0) * geometry["in_width"] >= row * geometry["out_width"]
        for row in range(rows, geometry["out_height"], rows)
    )

"""Depthwise convolutions of cores with Helium (MVE): 16 channels of a pixel in one vector.

Products of two int8 and their sums are 16 bits wide, as far as that is proven from the actual weights;
then they go to 32-bit lanes. Input rows go through a ring with their padding, so that the output may
overwrite the input.
"""

from __future__ import annotations

import numpy as np

from deployq.arithmetic import fits_lanes
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.helium import StoredCodes, stored_codes
from deployq.codegen.kernels.weighted import ConvolutionLayer, channel_tables, stage_parameters
from deployq.codegen.packing import description
from deployq.codegen.packing.vectors import LANES, VectorFormat, channel_vectors
from deployq.ops import KernelCall
from deployq.ops.base import Array

#: Kernels of more taps would make the unrolled code long.
_LARGEST_KERNEL = 25

#: Taps summed in 16 bits, where they cannot be all.
_CHUNKS = (5, 3, 2, 1)


def conv2d(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The kernel of a depthwise convolution; None where it does not apply.

    It applies to one filter per channel, any kernel of up to 25 taps, stride, pads and dilation.
    """
    geometry = layer.geometry
    if (
        "mve" not in core.features
        or not layer.depthwise
        or geometry["group_outputs"] != 1
        or layer.taps > _LARGEST_KERNEL
    ):
        return None
    stored = stored_codes(layer, core)
    if stored is None:
        return None
    ring_rows, ring_width = layer.op.window.extent
    ring_width += (geometry["out_width"] - 1) * geometry["stride_width"]
    height, width = layer.op.window.kernel
    chunk = _chunk(layer)
    shifted = layer.accumulation.stage.shift > 0
    weights = _weights(layer, stored)
    level_bytes = 0 if stored.bits == 8 else weights.nbytes * VectorFormat(stored.bits).vectors_per_unit
    ring_bytes = ring_rows * ring_width * geometry["in_channels"]
    suffix = (
        f"{height}x{width}{'' if chunk == layer.taps else f'_chunk{chunk}'}{'_shifted' if shifted else ''}"
    )
    return KernelCall(
        template="depthwise2d_wNa8_mve.c.j2",
        function=f"dq_depthwise2d_w{stored.bits}a8_mve_{suffix}",
        variant={
            "bits": stored.bits,
            "shifted": int(shifted),
            "kernel_height": height,
            "kernel_width": width,
            "chunk": chunk,
        },
        parameters=_parameters(layer, stored)
        | {
            "units": weights.nbytes // LANES,
            "block_pixels": _block_pixels(layer),
            "ring_rows": ring_rows,
            "ring_width": ring_width,
            "ring_at": level_bytes,
            "pad_left": min(geometry["pad_left"], ring_width),
        },
        tables=_tables(layer, weights),
        weights_format=description(VectorFormat(stored.bits)),
        # The last block of channels is read as whole vectors.
        scratch_bytes=level_bytes + ring_bytes + LANES - 1,
        lead=_lead(geometry, ring_rows),
    )


def _chunk(layer: ConvolutionLayer) -> int:
    """The most taps whose products are proven to add up within 16 bits, from any x."""
    chunks = (layer.taps, *(chunk for chunk in _CHUNKS if chunk < layer.taps))
    return next(chunk for chunk in chunks if fits_lanes(layer.rows, chunk))


def _block_pixels(layer: ConvolutionLayer) -> int:
    """Neighbouring pixels whose few channels fill a vector, in the input as in the output."""
    channels = layer.shape[0]
    return 1 if LANES % channels or layer.op.window.strides[1] != 1 else LANES // channels


def _parameters(layer: ConvolutionLayer, stored: StoredCodes) -> dict[str, int]:
    """Scalar members of `dq_depthwise2d_mve_params` that say what and where."""
    stage = stage_parameters(layer.accumulation)
    left_out = ["groups", "group_inputs", "group_outputs", "taps", "direct", "in_channels", "out_channels"]
    left_out += ["kernel_height", "kernel_width"]
    return (
        {member.removeprefix("stage."): value for member, value in stage.items()}
        | {member: value for member, value in layer.geometry.items() if member not in left_out}
        | {"channels": layer.shape[0], "step": stored.step, "offset": stored.offset}
    )


def _weights(layer: ConvolutionLayer, stored: StoredCodes) -> Array:
    return stored.pack(channel_vectors(np.tile(stored.codes, (_block_pixels(layer), 1)))).reshape(-1)


def _tables(layer: ConvolutionLayer, weights: Array) -> dict[str, Array]:
    """Weights; bias and multipliers in the order in which products leave 16-bit lanes; clamps."""
    tables = channel_tables(layer.accumulation)
    blocks = -(-layer.shape[0] // LANES)

    def by_block(values: Array) -> Array:
        values = np.tile(values, _block_pixels(layer))
        return np.pad(values, (0, blocks * LANES - len(values)), mode="edge").reshape(blocks, 1, LANES)

    stage = np.concatenate([by_block(tables["bias"]), by_block(tables["stage.multiplier"])], axis=1)
    leaving = stage.reshape(blocks, 2, 4, 4).transpose(0, 1, 3, 2).reshape(-1)
    clamps = {
        member.removeprefix("stage."): by_block(values).reshape(-1)
        for member, values in tables.items()
        if values.dtype == np.int8
    }
    return {"weights": weights, "requantization": np.ascontiguousarray(leaving), **clamps}


def _lead(geometry: dict[str, int], ring_rows: int) -> int:
    """How far the output must start before the input: no row is overwritten that is not in the ring yet."""
    row_bytes = geometry["out_width"] * geometry["out_channels"]
    leads = [-geometry["in_height"] * geometry["in_width"] * geometry["in_channels"]]
    for row in range(geometry["out_height"]):
        read = row * geometry["stride_height"] - geometry["pad_top"] + ring_rows
        if read < geometry["in_height"]:
            unread = max(read, 0) * geometry["in_width"] * geometry["in_channels"]
            leads.append((row + 1) * row_bytes - unread)
    return max(leads)

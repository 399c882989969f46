"""Kernels of cores with Helium (MVE): convolutions and fully connected layers.

16 activations meet 16 weights in one instruction (VMLADAVA.S8), whatever the width of the weights in
flash: convolutions unpack four output channels at a time, fully connected layers mask fields in passing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployq.arithmetic import INT8_MAX, INT8_MIN, INT32_MAX
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.weighted import (
    ConvolutionLayer,
    LinearLayer,
    WeightedLayer,
    channel_tables,
    stage_parameters,
)
from deployq.codegen.packing import description
from deployq.codegen.packing.vectors import (
    LANES,
    QUAD,
    Bytes,
    VectorFormat,
    first_taps,
    quad_vectors,
    tap_vectors,
)
from deployq.ops import KernelCall
from deployq.ops.base import Array

#: Scratch memory that unpacked weights and a block of copied windows share. Each block unpacks all weights
#: once more: where fewer windows fit, long ones, there are `_LONG_WINDOWS` in a block, whatever they need.
_SCRATCH_BYTES = 2304
_FEWEST_WINDOWS = 8
_LONG_WINDOWS = 12

#: Sums of products of two int8 over so many taps stay within int32.
_LARGEST_ROW = INT32_MAX // 128**2


def conv2d(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The kernel of a convolution that is not depthwise; None where it does not apply.

    It applies to any window, and to groups of four output channels or more.
    """
    if "mve" not in core.features or layer.depthwise or layer.geometry["group_outputs"] < QUAD:
        return None
    stored = stored_codes(layer, core)
    if stored is None:
        return None
    weights = _convolution_weights(layer, stored)
    quads = layer.op.groups * -(-layer.geometry["group_outputs"] // QUAD)
    shifted = layer.accumulation.stage.shift > 0
    levels = 0 if stored.bits == 8 else LANES * _unpacked_vectors(layer, stored.bits)
    block = 0 if layer.direct else _window_block(layer, levels)
    return KernelCall(
        template="conv2d_wNa8_mve.c.j2",
        function=f"dq_conv2d_w{stored.bits}a8_mve{'_shifted' if shifted else ''}",
        variant={"bits": stored.bits, "shifted": int(shifted)},
        parameters=stage_parameters(layer.accumulation)
        | layer.geometry
        | {
            "step": stored.step,
            "offset": stored.offset,
            "first_taps": first_taps(layer.taps),
            "vectors": tap_vectors(layer.taps) - 1,
            "quad_bytes": weights.nbytes // quads,
            "block": block,
            "windows_at": levels,
        },
        tables={"weights": weights, **channel_tables(layer.accumulation)},
        weights_format=description(VectorFormat(stored.bits)),
        scratch_bytes=levels + block * layer.taps,
    )


@dataclass(frozen=True)
class StoredCodes:
    """What flash holds of the weights of a convolution: level = step * code + offset.

    Attributes:
        bits: width of a stored code, 1, 2, 4 or 8.
        codes: (rows, taps); at eight bits the levels themselves.
        step: see above.
        offset: see above.
    """

    bits: int
    codes: Bytes
    step: int
    offset: int

    def pack(self, vectors: Bytes) -> Array:
        """Flash of codes in vectors of 16, at eight bits as int8."""
        packed = VectorFormat(self.bits).pack(vectors)
        return packed.view(np.int8) if self.bits == 8 else packed


def stored_codes(layer: WeightedLayer, core: Core) -> StoredCodes | None:
    """How a convolution is stored; None where that takes too much flash or a level is no int8 (midrise-8)."""
    alphabet = layer.accumulation.weights.alphabet
    bits = core.field_bits(alphabet.bits)
    if bits is None or int(alphabet.values[0]) < INT8_MIN or int(alphabet.values[-1]) > INT8_MAX:
        return None
    if bits == 8:
        return StoredCodes(8, layer.rows.astype(np.int8).view(np.uint8), 1, 0)
    return StoredCodes(bits, alphabet.encode(layer.rows), alphabet.step, alphabet.offset)


def _unpacked_vectors(layer: ConvolutionLayer, bits: int) -> int:
    """Vectors that four unpacked channels take, with the rest of the last unit."""
    layout = VectorFormat(bits)
    return layout.units(QUAD * tap_vectors(layer.taps)) * layout.vectors_per_unit


def _convolution_weights(layer: ConvolutionLayer, stored: StoredCodes) -> Array:
    """Packed weights: for each group its channels four by four, the last four overlapping others."""
    outputs = layer.geometry["group_outputs"]
    within = [min(start, outputs - QUAD) for start in range(0, outputs, QUAD)]
    starts = [group * outputs + start for group in range(layer.op.groups) for start in within]
    channels = np.concatenate([np.arange(start, start + QUAD) for start in starts])
    quads = quad_vectors(stored.codes[channels])
    return np.concatenate([stored.pack(quad) for quad in quads]).reshape(-1)


def _window_block(layer: ConvolutionLayer, level_bytes: int) -> int:
    """Windows copied together, an even number unless that is all of them."""
    windows = (_SCRATCH_BYTES - level_bytes) // layer.taps // 2 * 2
    if windows < _FEWEST_WINDOWS:
        windows = _LONG_WINDOWS
    return min(windows, layer.geometry["out_height"] * layer.geometry["out_width"])


def linear(layer: LinearLayer, core: Core) -> KernelCall | None:
    """The kernel of a fully connected layer; None where it does not apply."""
    bits = core.field_bits(layer.bits)
    if "mve" not in core.features or bits is None or bits == 1 or layer.taps > _LARGEST_ROW:
        return None
    alphabet = layer.accumulation.weights.alphabet
    fields, step, offset = layer.rows, alphabet.step, alphabet.offset
    if bits == 8 and alphabet.step == 1:
        step, offset = 1, 0
    elif bits == 8:
        fields, step, offset = (fields - 1) // 2, 2, 1  # mid-rise: odd levels 2 * field + 1
    else:
        fields = alphabet.encode(fields)
    sign = 1 << (bits - 1)
    shifted = layer.accumulation.stage.shift > 0
    return KernelCall(
        template="linear_wNa8_mve.c.j2",
        function=f"dq_linear_w{bits}a8_mve{'_shifted' if shifted else ''}",
        variant={"bits": bits, "shifted": int(shifted)},
        parameters=stage_parameters(layer.accumulation)
        | layer.sizes
        | {
            "step": step,
            "offset": offset,
            "signed_offset": offset if bits == 8 else offset + step * sign,
            "first_taps": first_taps(layer.taps),
            "vectors": tap_vectors(layer.taps) - 1,
        },
        tables={"weights": _matrix(fields, bits), **_whole_quads(channel_tables(layer.accumulation))},
        weights_format=description(VectorFormat(bits)),
    )


def _matrix(fields: Array, bits: int) -> Array:
    """Packed fields of whole quads; a field at the top of a byte is two's complement."""
    rows = np.zeros((-(-len(fields) // QUAD) * QUAD, fields.shape[1]), np.uint8)
    rows[: len(fields)] = fields.astype(np.int8).view(np.uint8)
    if bits < 8:
        per_byte = 8 // bits
        rows[per_byte - 1 :: per_byte] ^= np.uint8(1 << (bits - 1))
    packed = VectorFormat(bits).pack(quad_vectors(rows).reshape(-1, LANES)).reshape(-1)
    return packed.view(np.int8) if bits == 8 else packed


def _whole_quads(tables: dict[str, Array]) -> dict[str, Array]:
    """Bias and multipliers up to a whole number of quads; the last value fills it."""
    return {
        member: np.pad(values, (0, -len(values) % QUAD), mode="edge") if values.itemsize == 4 else values
        for member, values in tables.items()
    }

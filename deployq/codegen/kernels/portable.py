"""Kernels of every core: portable C for `dense` weights, SMLAD for `lanes`."""

from __future__ import annotations

from dataclasses import replace

from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.weighted import (
    ConvolutionLayer,
    LinearLayer,
    WeightedLayer,
    channel_tables,
    stage_parameters,
    with_scratch,
)
from deployq.codegen.packing import description
from deployq.codegen.packing.streams import PackedFormat, dense, lanes, lanes_worthwhile
from deployq.ops import KernelCall
from deployq.ops.base import Array

#: Bytes of copied windows the portable convolution works on at a time. Each unpacked row of weights
#: serves that many pixels; more gain little.
_WINDOW_BYTES = 2048


def weight_format(bits: int, core: Core) -> PackedFormat:
    """The flash format of weights that are summed over channels (not depthwise)."""
    return lanes(bits) if "dsp" in core.features and lanes_worthwhile(bits) else dense(bits)


def linear(layer: LinearLayer, core: Core) -> KernelCall:
    """The kernel of a fully connected layer."""
    layout = weight_format(layer.bits, core)
    suffix = "_smlad" if layout.name == "lanes" else ""
    return KernelCall(
        template=f"linear_wNa8{suffix}.c.j2",
        function=f"dq_linear_w{layer.bits}a8{suffix}",
        variant={"bits": layer.bits},
        parameters=_parameters(layer, layout) | layer.sizes,
        tables=_tables(layer, layout),
        weights_format=description(layout),
        scratch_bytes=_operand_bytes(layout, layer.taps) if suffix else 0,
    )


def conv2d(layer: ConvolutionLayer, core: Core) -> KernelCall:
    """The kernel of a convolution, depthwise or not."""
    layout = dense(layer.bits) if layer.depthwise else weight_format(layer.bits, core)
    suffix = "_smlad" if layout.name == "lanes" else ""
    family = "depthwise2d" if layer.depthwise else "conv2d"
    call = KernelCall(
        template=f"{family}_wNa8{suffix}.c.j2",
        function=f"dq_{family}_w{layer.bits}a8{suffix}",
        variant={"bits": layer.bits},
        parameters=_parameters(layer, layout) | layer.geometry,
        tables=_tables(layer, layout),
        weights_format=description(layout),
    )
    if layer.depthwise:
        return replace(call, scratch_bytes=2 * layer.taps)
    window_bytes = 0 if layer.direct else layer.taps
    if suffix:
        operand_bytes = _operand_bytes(layout, layer.taps)
        return with_scratch(call, 2, {"codes_at": 2 * operand_bytes, "windows_at": window_bytes})
    block = pixel_block(layer)
    code_bytes = 0 if layer.bits == 8 else 2 * layer.taps
    parts = {"sums_at": 4 * block, "codes_at": code_bytes, "windows_at": block * window_bytes}
    return with_scratch(call, block, parts)


def pixel_block(layer: ConvolutionLayer) -> int:
    """Output pixels computed together, in pairs."""
    return min(layer.geometry["out_width"], -(-max(2, _WINDOW_BYTES // layer.taps) // 2) * 2)


def _tables(layer: WeightedLayer, layout: PackedFormat) -> dict[str, Array]:
    alphabet = layer.accumulation.weights.alphabet
    packed = layout.pack(alphabet.encode(layer.rows), alphabet.neutral_code).reshape(-1)
    weights = packed if layout.row_align == 1 else packed.view("<u4")
    return {"weights": weights, **channel_tables(layer.accumulation)}


def _parameters(layer: WeightedLayer, layout: PackedFormat) -> dict[str, int]:
    alphabet = layer.accumulation.weights.alphabet
    return stage_parameters(layer.accumulation) | {
        "row_size": layout.row_bytes(layer.taps) // layout.row_align,
        "step": alphabet.step,
        "offset": alphabet.offset,
    }


def _operand_bytes(layout: PackedFormat, taps: int) -> int:
    """Bytes of the expanded activations a row of `lanes` meets: two for each code, padding included."""
    return layout.row_bytes(taps) // layout.unit_bytes * layout.codes_per_unit * 2

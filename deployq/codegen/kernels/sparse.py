"""Kernels of sparse ternary weights, stored as lists of taps, where they are better than the dense ones."""

from __future__ import annotations

from dataclasses import replace

from deployq.codegen.kernels import portable
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.portable import pixel_block, weight_format
from deployq.codegen.kernels.weighted import (
    ConvolutionLayer,
    LinearLayer,
    WeightedLayer,
    channel_tables,
    stage_parameters,
)
from deployq.codegen.packing import description
from deployq.codegen.packing.gaps import PackedGaps
from deployq.codegen.sparse_choice import choose_gaps
from deployq.ops import KernelCall


def linear(layer: LinearLayer, dense_call: KernelCall, core: Core) -> KernelCall | None:
    """The sparse kernel of a fully connected layer; None where it does not pay beside the best dense one."""
    gaps = _gaps(layer, dense_call, core)
    if gaps is None:
        return None
    return KernelCall(
        template="linear_gaps_a8.c.j2",
        function=f"dq_linear_gaps{gaps.layout.bits}_a8",
        variant={"gap_bits": gaps.layout.bits},
        parameters=stage_parameters(layer.accumulation) | {"outputs": layer.sizes["outputs"]},
        tables={"weights": gaps.data, **channel_tables(layer.accumulation)},
        weights_format=description(gaps.layout),
    )


def conv2d(layer: ConvolutionLayer, dense_call: KernelCall, core: Core) -> KernelCall | None:
    """The portable kernel with sparse weights instead; its scratch memory holds copied windows.

    Args:
        layer: the layer.
        dense_call: the best one with dense weights.
        core: and preference.
    """
    gaps = None if layer.depthwise else _gaps(layer, dense_call, core)
    if gaps is None:
        return None
    portable_call = portable.conv2d(layer, core)
    lanes = weight_format(layer.bits, core).name == "lanes"
    block = 2 if lanes else pixel_block(layer)
    return replace(
        portable_call,
        template="conv2d_gaps_a8.c.j2",
        function=f"dq_conv2d_gaps{gaps.layout.bits}_a8",
        variant={"gap_bits": gaps.layout.bits},
        parameters={**portable_call.parameters, "row_size": 0, "block": block},  # rows differ in size
        tables={**portable_call.tables, "weights": gaps.data},
        weights_format=description(gaps.layout),
        scratch_bytes=0 if layer.direct else block * layer.taps,
    )


def _gaps(layer: WeightedLayer, dense_call: KernelCall, core: Core) -> PackedGaps | None:
    """The weights as lists of taps, where that is better than the dense weights of a call."""
    if "mve" in core.features:
        return None  # vectors are faster at any density
    alphabet, dense_bytes = layer.accumulation.weights.alphabet, dense_call.tables["weights"].nbytes
    return choose_gaps(
        layer.rows, alphabet, dense_bytes, core.features, layer.operator.kind, core.optimize == "flash"
    )

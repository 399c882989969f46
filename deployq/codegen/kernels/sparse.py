"""Kernels of sparse ternary weights, stored as lists of taps, where they are better than the dense ones."""

from __future__ import annotations

from dataclasses import replace

from deployq.codegen.kernels.portable import pixel_block, weight_format
from deployq.codegen.kernels.weighted import (
    ConvolutionLayer,
    LinearLayer,
    WeightedLayer,
    channel_tables,
    stage_parameters,
)
from deployq.codegen.sparse import PackedGaps
from deployq.codegen.sparse_choice import choose_gaps
from deployq.ops import KernelCall


def linear(layer: LinearLayer, features: frozenset[str]) -> KernelCall | None:
    """The sparse kernel of a fully connected layer; None where it does not pay."""
    gaps = _gaps(layer, features)
    if gaps is None:
        return None
    return KernelCall(
        template="linear_gaps_a8.c.j2",
        function=f"dq_linear_gaps{gaps.layout.bits}_a8",
        variant={"gap_bits": gaps.layout.bits},
        parameters=stage_parameters(layer.accumulation) | {"outputs": layer.sizes["outputs"]},
        tables={"weights": gaps.data, **channel_tables(layer.accumulation)},
    )


def conv2d(layer: ConvolutionLayer, dense_call: KernelCall, features: frozenset[str]) -> KernelCall | None:
    """The call of a dense kernel with sparse weights instead; its scratch memory holds copied windows."""
    if layer.depthwise:
        return None
    gaps = _gaps(layer, features)
    if gaps is None:
        return None
    lanes = weight_format(layer.bits, features).name == "lanes"
    block = 2 if lanes else pixel_block(layer)
    return replace(
        dense_call,
        template="conv2d_gaps_a8.c.j2",
        function=f"dq_conv2d_gaps{gaps.layout.bits}_a8",
        variant={"gap_bits": gaps.layout.bits},
        parameters={**dense_call.parameters, "row_size": 0, "block": block},  # rows differ in size
        tables={**dense_call.tables, "weights": gaps.data},
        scratch_bytes=0 if layer.direct else block * layer.taps,
    )


def _gaps(layer: WeightedLayer, features: frozenset[str]) -> PackedGaps | None:
    """The weights as lists of taps, where that is better."""
    rows = layer.rows
    dense_bytes = len(rows) * weight_format(layer.bits, features).row_bytes(layer.taps)
    alphabet = layer.accumulation.weights.alphabet
    return choose_gaps(rows, alphabet, dense_bytes, features, layer.op.kind)

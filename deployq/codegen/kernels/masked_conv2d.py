"""Convolutions with weights of three bits and more on cores with SMLAD."""

from __future__ import annotations

import numpy as np

from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.fields_conv2d import FieldsConvolution, Gathering, flattened, packed_rows
from deployq.codegen.kernels.fields_layer import channel_table, padded_rows, stage_variant
from deployq.codegen.kernels.masked_layer import is_linked, masked_base, masked_format, middle_code, sums_fit
from deployq.codegen.kernels.weighted import ConvolutionLayer
from deployq.ops import KernelCall

#: Taps in the unrolled loop of the block functions.
_UNROLLED_TAPS = 32


def conv2d(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The kernel of a convolution; None where no format fits or its sums are not proven.

    It does not apply to depthwise convolutions and on cores without SMLAD either.
    """
    layout = masked_format(layer.bits, core)
    if "dsp" not in core.features or layer.depthwise or layout is None:
        return None
    alphabet = layer.accumulation.weights.alphabet
    filler = masked_base(alphabet, layout) + alphabet.step * middle_code(layout)
    levels = padded_rows(layer.rows.astype(np.int64) - filler, layer.op.groups) + filler
    if not sums_fit(levels, alphabet.step, layout):
        return None
    layer = flattened(layer)
    windows = Gathering.of(layer, layout.unit_taps)
    variant: dict[str, int | str] = {"bits": layout.bits}
    variant |= {"second_step": alphabet.step, "chunked": 0, **stage_variant(layer.accumulation)}
    return FieldsConvolution(
        layer=layer,
        windows=windows,
        chunk=windows.operands,
        weights=packed_rows(layout, layer, windows, masked_base(alphabet, layout), middle_code(layout)),
        channels=channel_table(layer.accumulation, layer.op.groups),
        layout=layout,
        unrolled=_UNROLLED_TAPS // layout.unit_taps,
    ).call("linked" if is_linked(layout) else "masked", variant)

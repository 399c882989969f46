"""Depthwise convolution on planes of single channels, for cores with the DSP extension.

Up to four neighbouring channels of the input are expanded into planes of 16-bit values, padded with the
zero point, a strip of lines at a time (see `depthwise_planes`). In a plane the taps of a window are
neighbours, so that one SMLAD adds two products, and a channel's weights stay in registers where they fit.
Any width of weights: they are unpacked once per channel. An accumulator is 32 bits wide as in the portable
kernel. A left shift of the output stage is done to the weights and biases beforehand, where they are proven
to fit.
"""

from __future__ import annotations

import numpy as np

from deployq.arithmetic import INT8_MAX, INT8_MIN, INT16_MAX, INT16_MIN, INT32_MAX
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.depthwise_planes import CHANNELS, Axis, Planes
from deployq.codegen.kernels.weighted import ConvolutionLayer, channel_tables, stage_parameters
from deployq.codegen.packing import BY_COLUMNS, description
from deployq.codegen.packing.streams import dense
from deployq.ops import KernelCall
from deployq.ops.base import Array

#: Planes are as tall as fits into this many bytes, and into a quarter of the size of the input, but at
#: least as tall as one window.
_PLANE_BYTES = 4096

#: Layers that need more scratch memory than this, and than an eighth of their input, are left to the portable
#: kernel.
_LARGEST_SCRATCH_BYTES = 8192

#: Convolutions of one input channel to more outputs than this are faster with the fields of other kernels:
#: those of windows of up to so many taps, which have few products beside every output, and others. Measured.
_FEW_TAPS, _OUTPUTS_OF_FEW_TAPS, _OUTPUTS_OF_MORE = 9, 16, 6


def conv2d(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The kernel of a depthwise convolution; None where it does not apply.

    It applies to any number of channels, kernel size, stride, dilation, pads and channel multiplier, as long
    as planes of one window fit the scratch memory; and to a convolution of one channel to a few.
    """
    if "dsp" not in core.features or not (layer.depthwise or _one_to_few(layer, core)):
        return None
    planes = _planes(layer, core.scratch(_PLANE_BYTES))
    if planes is None:
        return None
    shift = _folded_shift(layer)
    direct = planes.assembled and _direct(layer, shift)
    name = planes.shape + "_dilated" * planes.dilated + "_few" * (planes.channels < CHANNELS)
    staged = "" if direct or planes.method == "any" else "_staged"
    channels = channel_tables(layer.accumulation)
    return KernelCall(
        template="depthwise2d_wNa8_smlad.c.j2",
        function=f"dq_depthwise2d_{name}{staged}_w{layer.bits}a8_smlad",
        variant={
            "bits": layer.bits,
            "direct": int(direct),
            "view": "phases" if planes.dilated else "lines",
            "few": "_few" if planes.channels < CHANNELS else "",
        }
        | planes.window,
        parameters=_parameters(layer, shift) | planes.members | {"planes_at": planes.weight_bytes},
        tables=channels
        | {"weights": _packed(layer, planes.transposed), "bias": channels["bias"] << np.int32(shift)},
        weights_format=description(dense(layer.bits), BY_COLUMNS * planes.transposed),
        scratch_bytes=planes.scratch_bytes,
        lead="same" if planes.read_ahead else None,
    )


def _one_to_few(layer: ConvolutionLayer, core: Core) -> bool:
    """One input channel and few output channels, where fields of four channels would be mostly empty.

    The other kernels compute row by row, which needs less memory.
    """
    few = layer.taps <= _FEW_TAPS and core.optimize != "ram"
    most = _OUTPUTS_OF_FEW_TAPS if few else _OUTPUTS_OF_MORE
    return layer.shape[0] == 1 and layer.op.weight_shape[0] <= most


def _planes(layer: ConvolutionLayer, usual_bytes: int) -> Planes | None:
    """The planes of a layer; None where none are possible."""
    window, size = layer.op.window, layer.shape[1:]
    outputs = window.output_size(*size)
    rows, columns = (
        Axis.of(size[i], outputs[i], window.kernel[i], window.strides[i], window.dilations[i], window.pads[i])
        for i in range(2)
    )
    channels, filters = layer.shape[0], layer.op.weight_shape[0]
    upright = Planes(rows, columns, channels, filters, False, usual_bytes)
    lying = Planes(columns, rows, channels, filters, True, usual_bytes)
    # Columns are lines only where they all fit at once, since a strip of columns would not be read ahead of
    # the output.
    cheaper = lying.strip == lying.lines.outputs and lying.cost < upright.cost
    preferred = (lying, upright) if cheaper else (upright, lying)
    most = max(_LARGEST_SCRATCH_BYTES, channels * size[0] * size[1] // 8)
    return next((planes for planes in preferred if planes.scratch_bytes <= most), None)


def _packed(layer: ConvolutionLayer, transposed: bool) -> Array:
    """Dense rows of weights, taps line by line."""
    alphabet = layer.accumulation.weights.alphabet
    levels = layer.op.levels.swapaxes(2, 3) if transposed else layer.op.levels
    codes = alphabet.encode(levels.reshape(len(levels), -1))
    return dense(layer.bits).pack(codes, alphabet.neutral_code).reshape(-1)


def _folded_shift(layer: ConvolutionLayer) -> int:
    """By how much weights and biases are shifted left, so that the output stage need not shift the sums.

    That is by all of the stage's shift, or by nothing where weights do not fit 16 bits or biases 32. The
    stage itself demands that all sums fit 32 bits when they are shifted.
    """
    shift, values = layer.accumulation.stage.shift, layer.accumulation.weights.alphabet.values
    lowest, highest = int(values[0]) << shift, int(values[-1]) << shift
    bias = int(np.abs(layer.accumulation.folded_bias).max()) << shift
    return shift if lowest >= INT16_MIN and highest <= INT16_MAX and bias <= INT32_MAX else 0


def _direct(layer: ConvolutionLayer, folded: int) -> bool:
    """The output is the zero point plus one rounded product, saturated to int8: three instructions."""
    stage = layer.accumulation.stage
    bounds = (int(stage.low.min()), int(stage.high.max()))
    return stage.shift == folded and not stage.per_channel_clamp and bounds == (INT8_MIN, INT8_MAX)


def _parameters(layer: ConvolutionLayer, folded: int) -> dict[str, int]:
    """Members of the parameter struct that do not depend on the planes; weights are shifted by `folded`."""
    alphabet, stage = layer.accumulation.weights.alphabet, layer.accumulation.stage
    return stage_parameters(layer.accumulation) | {
        "stage.shift": stage.shift - folded,
        "row_size": dense(layer.bits).row_bytes(layer.taps),
        "step": alphabet.step << folded,
        "offset": alphabet.offset * (1 << folded),
        "input_zero_point": layer.accumulation.input_zero_point,
    }

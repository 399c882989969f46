"""Fully connected layers with SMLAD whose words of weights hold codes of several outputs.

One and two bits: an accumulator holds the sums of two outputs (pairs). More bits: the words hold four or
two outputs a lane, which masks make distinguishable (masked_layer). The input is expanded once, in scratch
memory, to the 16-bit operands of SMLAD.
"""

from __future__ import annotations

import numpy as np

from deployq.arithmetic import INT8_MAX, INT8_MIN
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.fields_layer import (
    Levels,
    PairCode,
    channel_table,
    clamp_tables,
    pair_code,
    signed_field_bits,
)
from deployq.codegen.kernels.masked_layer import masked_base, masked_format, middle_code, sums_fit
from deployq.codegen.kernels.weighted import LinearLayer, stage_parameters
from deployq.codegen.packing import description
from deployq.codegen.packing.fields import CHANNELS, Codes, Words
from deployq.codegen.packing.woven import LaneFormat
from deployq.ops import KernelCall

#: Inputs of a block of operands: the kernels work on whole blocks.
_BLOCK = 8

#: Bytes behind the operands that the loops for two, three and four bits load, two or three operands ahead.
_AHEAD_BYTES = {2: 8, 3: 12, 4: 12}

#: Bytes of a run in scratch memory; one more follows the last.
_RUN_BYTES = 16

#: Above this many bytes of operands the kernels read the input as it is and expand it for every group of
#: outputs: 0.08 (pairs) or 0.16 instructions per MAC more, for hardly any scratch memory.
_LARGEST_OPERANDS = {"speed": 8192}
_USUAL_LARGEST_OPERANDS = 512

#: Outputs that pairs compute together; fewer outputs would be padded to more than twice their number.
_PAIR_OUTPUTS = 8


def linear(layer: LinearLayer, core: Core) -> KernelCall | None:
    """The kernel of a fully connected layer; None where no format fits or its sums are not proven."""
    if "dsp" not in core.features:
        return None
    code = pair_code(layer.accumulation.weights.alphabet)
    operands = operand_bytes(layer, _LARGEST_OPERANDS.get(core.optimize, _USUAL_LARGEST_OPERANDS))
    if code is not None:
        return _pairs(layer, code, operands)
    layout = masked_format(layer.bits, core)
    if layout is None:
        return None
    return _masked(layer, layout, operands)


def _pairs(layer: LinearLayer, code: PairCode, operands: int) -> KernelCall | None:
    levels = _padded(layer.rows.astype(np.int64), _PAIR_OUTPUTS)
    runs = longest_runs(code, levels[0::2])
    outputs = layer.sizes["outputs"]
    if outputs <= CHANNELS or runs is None or not code.second_fits(levels[1::2]):
        return None
    words = _packed(code.layout, _stored(layer, code.base))
    words = np.pad(words, [(0, -len(words) % (_PAIR_OUTPUTS // CHANNELS)), (0, 0)])
    paired = words.reshape(len(words) // 2, 2, -1).transpose(0, 2, 1)
    constants = channel_table(layer.accumulation, 1)
    return KernelCall(
        template="linear_wNa8_fields_pairs.c.j2",
        function=_function(layer, code.layout, operands),
        variant=_variant(layer, code.layout, operands)
        | {
            "field_bits": code.field_bits,
            "sum_halves": code.sum_halves,
            "first_step": code.first_step,
            "second_step": code.second_step,
        },
        parameters=stage_parameters(layer.accumulation) | {"run_count": len(runs)} | layer.sizes,
        tables={
            "weights": np.ascontiguousarray(paired).reshape(-1),
            "constants": np.pad(constants, (0, -len(constants) % (2 * _PAIR_OUTPUTS))),
            "runs": np.array(runs, np.uint16),
            **clamp_tables(layer.accumulation),
        },
        weights_format=description(code.layout, "The words of two groups take turns."),
        scratch_bytes=_RUN_BYTES * (len(runs) + 1) + operands + _ahead_bytes(code.layout, operands),
        lead=_lead(layer, operands),
    )


def _masked(layer: LinearLayer, layout: LaneFormat, operands: int) -> KernelCall | None:
    """Outputs that fill up the last four have the middle code: they must not disturb the others' fields."""
    alphabet = layer.accumulation.weights.alphabet
    base = masked_base(alphabet, layout)
    missing = [(0, -layer.rows.shape[0] % CHANNELS), (0, 0)]
    codes = np.pad(_stored(layer, base), missing, constant_values=middle_code(layout))
    levels = alphabet.step * codes.astype(np.int64) + base
    if not sums_fit(levels, alphabet.step, layout):
        return None
    return KernelCall(
        template="linear_wNa8_fields_masked.c.j2",
        function=_function(layer, layout, operands),
        variant=_variant(layer, layout, operands) | {"step": alphabet.step},
        parameters=stage_parameters(layer.accumulation) | {"run_count": 0} | layer.sizes,
        tables={
            "weights": _packed(layout, codes).reshape(-1),
            "constants": channel_table(layer.accumulation, 1),
            **clamp_tables(layer.accumulation),
        },
        weights_format=description(layout),
        scratch_bytes=operands + _ahead_bytes(layout, operands),
        lead=_lead(layer, operands),
    )


def longest_runs(code: PairCode, levels: Levels) -> tuple[int, ...] | None:
    """Lengths of runs of inputs, in blocks, each as long as the first field is proven to hold its sum.

    Args:
        code: how the levels are stored.
        levels: (rows, taps) of the first outputs of pairs, whole blocks.

    Returns:
        Lengths that sum up to all blocks, or None where one block is already too much.
    """
    runs: list[int] = []
    begin, blocks = 0, levels.shape[1] // _BLOCK
    while begin < blocks:
        end = begin
        while end < blocks and _fits(code, levels[:, begin * _BLOCK : (end + 1) * _BLOCK]):
            end += 1
        if end == begin:
            return None
        runs.append(end - begin)
        begin = end
    return tuple(runs)


def _fits(code: PairCode, levels: Levels) -> bool:
    return bool(np.all(signed_field_bits(*code.first_extremes(levels)) <= code.field_bits))


def operand_bytes(layer: LinearLayer, largest: int = _USUAL_LARGEST_OPERANDS) -> int:
    """Bytes of the expanded input in scratch memory; 0 where it is not expanded in advance."""
    expanded = -(-layer.taps // _BLOCK) * _BLOCK * 2
    return 0 if expanded > largest and layer.taps % _BLOCK == 0 else expanded


def _ahead_bytes(layout: LaneFormat, operands: int) -> int:
    """Bytes of scratch memory behind the operands, 0 where they are not expanded in advance."""
    return _AHEAD_BYTES.get(layout.bits, 0) if operands else 0


def _lead(layer: LinearLayer, operands: int) -> int | None:
    """`KernelCall.lead`: an expanded input is not read again, so that the output may lie anywhere."""
    return -layer.taps if operands else None


def _variant(layer: LinearLayer, layout: LaneFormat, operands: int) -> dict[str, int | str]:
    """What makes up a variant of the C code."""
    wide = operands == 0
    return {
        "bits": layout.bits,
        "direct": int(_saturates(layer)),
        "shifted": int(_saturates(layer) and layer.accumulation.stage.shift > 0),
        "wide": int(wide),
    }


def _saturates(layer: LinearLayer) -> bool:
    """Whether the clamps are those of int8, so that SSAT #8 is all that follows the multiplication."""
    stage = layer.accumulation.stage
    return bool(np.all(stage.low == INT8_MIN) and np.all(stage.high == INT8_MAX))


def _function(layer: LinearLayer, layout: LaneFormat, operands: int) -> str:
    """Name of the variant: of two alphabets of a width, one has odd levels only."""
    odd = "_odd" if layer.accumulation.weights.alphabet.step == 2 and layout.bits > 1 else ""
    shifted = "_shifted" if layer.accumulation.stage.shift > 0 else ""
    stage = shifted if _saturates(layer) else "_clamped"
    wide = "_wide" if operands == 0 else ""
    return f"dq_linear_w{layout.bits}a8_fields{odd}{stage}{wide}"


def _padded(levels: Levels, outputs: int) -> Levels:
    """Levels with rows and columns of zeros up to whole groups of outputs and whole blocks of inputs."""
    return np.pad(levels, [(0, -levels.shape[0] % outputs), (0, -levels.shape[1] % _BLOCK)])


def _stored(layer: LinearLayer, base: int) -> Codes:
    """What is stored of the weights (outputs, taps): level = step * code + base."""
    step = layer.accumulation.weights.alphabet.step
    return ((layer.rows.astype(np.int64) - base) // step).astype(np.uint8)


def _packed(layout: LaneFormat, codes: Codes) -> Words:
    """Words (groups of four outputs, words of a row), whole blocks of inputs filled up with zeros."""
    missing = -codes.shape[1] % _BLOCK
    present = np.arange(codes.shape[1] + missing) < codes.shape[1]
    return layout.pack(np.pad(codes, [(0, 0), (0, missing)]), present)

"""Weights of three bits and more on cores with SMLAD: which format stores them, and what is proven.

A lane of a word holds the codes of four output channels (`linked`, or `woven` of three bits) or of two
(`byte_pairs`, or `woven` of five and six bits). Kernels add up products with what masks leave of a lane;
from these sums, taken modulo 2^32, the inner products follow at the places of their fields. Only the inner
product itself, shifted to its place, must fit: 32 bits, or where it stands below another one, its field.
"""

from __future__ import annotations

import numpy as np

from deployq.alphabet import Alphabet
from deployq.arithmetic import accumulator_extremes
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.fields_layer import Levels, signed_field_bits
from deployq.codegen.packing.fields import byte_pairs, linked
from deployq.codegen.packing.woven import LaneFormat, WovenFormat, woven

#: Widths of codes that are woven where wider fields take too much flash.
_WOVEN_BITS = (3, 5, 6)

#: Bits that give the inner products of the channels of a lane: of four, from three linked sums, or of two.
_LINKED_FIELD_BITS = (24, 28, 20, 20)
_BYTES_FIELD_BITS = (32, 24, 32, 24)


def masked_format(bits: int, core: Core) -> LaneFormat | None:
    """The format that stores codes of a width, None where they are better left to other kernels.

    Fields wider than the codes are faster where their flash is allowed.
    """
    wide = core.field_bits(bits)
    if wide is None and bits in _WOVEN_BITS:
        return woven(bits)
    return {4: linked(), 8: byte_pairs()}.get(wide or 0)


def is_linked(layout: LaneFormat) -> bool:
    """Whether a lane holds four channels, whose three sums are linked, not two."""
    fields = layout.fields if isinstance(layout, WovenFormat) else layout
    return fields.bits == 4


def masked_base(alphabet: Alphabet, layout: LaneFormat) -> int:
    """The level of code 0: level = step * code + base.

    The middle code is level 0 of alphabets with step 1, so that nothing needs a correction; with step 2,
    all of whose levels are odd, it is level 1: the sum of the activations is added to every inner product.
    """
    return alphabet.step - 1 - alphabet.step * middle_code(layout)


def middle_code(layout: LaneFormat) -> int:
    """What is stored for channels that fill up the last four: their sums are small."""
    return 1 << (layout.bits - 1)


def sums_fit(levels: Levels, step: int, layout: LaneFormat) -> bool:
    """Whether the inner products of the channels of a lane are proven to be told apart.

    Args:
        levels: (rows, taps), rows in groups of four.
        step: distance of two levels; where it is 2, a field holds half an inner product, rounded down.
        layout: of the weights.
    """
    lowest, highest = accumulator_extremes(levels, 0, np.zeros(len(levels), np.int64))
    bits = signed_field_bits(lowest // step, highest // step)
    room = _LINKED_FIELD_BITS if is_linked(layout) else _BYTES_FIELD_BITS
    return bool(np.all(bits <= np.resize(room, len(bits))))

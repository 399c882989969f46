"""Weights of four and eight bits on cores with SMLAD: which format stores them, and what is proven.

A lane of a word holds the codes of four or two output channels (`nested`, `byte_pairs`). Kernels add up
the lane and what masks leave of it; differences of these sums, taken modulo 2^32, are the inner products
at the places of their fields. Only the inner product itself, shifted to its place, must fit 32 bits.
"""

from __future__ import annotations

import numpy as np

from deployq.alphabet import Alphabet
from deployq.arithmetic import INT32_MAX, accumulator_extremes
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.fields_layer import Levels
from deployq.codegen.packing.fields import FieldFormat, byte_pairs, nested


def masked_format(bits: int, core: Core) -> FieldFormat | None:
    """The format that stores codes of a width, None where they are better left to other kernels."""
    return {4: nested(), 8: byte_pairs()}.get(core.field_bits(bits) or 0)


def masked_base(alphabet: Alphabet, layout: FieldFormat) -> int:
    """The level of code 0: level = step * code + base.

    The middle code is level 0 of alphabets with step 1, so that nothing needs a correction; with step 2,
    all of whose levels are odd, it is level 1: the sum of the activations is added to every inner product.
    """
    return alphabet.step - 1 - alphabet.step * (1 << (layout.bits - 1))


def top_fields_fit(levels: Levels, step: int, layout: FieldFormat) -> bool:
    """Whether the inner products, at the places of their fields in a lane, are proven to stay in int32.

    Args:
        levels: (rows, taps), rows in groups of four.
        step: distance of two levels; the kernels shift by one place less where it is 2.
        layout: of the weights.
    """
    lowest, highest = accumulator_extremes(levels, 0, np.zeros(len(levels), np.int64))
    factors = np.resize([1 << place % 16 for place in layout.positions[0]], len(levels))
    products = (lowest * factors // step, highest * factors // step)
    return bool(max(-products[0].min(initial=0), products[1].max(initial=0)) <= INT32_MAX)

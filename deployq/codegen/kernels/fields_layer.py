"""What the SMLAD kernels with four output channels a word share: stored codes, tables, and proofs.

Codes of one and two bits ("pairs") put two channels into one accumulator:

    accumulator = F0 + 2^field_bits * F1   (mod 2^32)

with F0, F1 sums over the taps. F0 is kept centred by starting each chunk of taps from a multiple of the
sum S of its activations, so that F0 is the inner product itself (or half of it), and is taken out before
it can leave its field. How many taps a chunk may have is proven here from the actual weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployq.alphabet import Alphabet
from deployq.arithmetic import INT32_MAX, Int64Array, accumulator_extremes, signed_bits
from deployq.codegen.packing.fields import CHANNELS, FieldFormat, pairs
from deployq.ops.accumulate import Accumulation
from deployq.ops.base import Array

Levels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairCode:
    """How weights of one or two bits are stored in pairs and what the fields of an accumulator mean.

    With S the sum of all activations and ceilings and floors that cancel exactly,

        first channel:  sum(level * x) = first_step * F0 + (S mod 2 if first_step is 2)
        second channel: sum(level * x) = second_step * F1 + (S mod 2 if second_step is 2)

    where a chunk with sum s starts F0 from -ceil(sum_halves * s / 2), carried over between chunks, and F1
    from floor(S / 2) if second_step is 2, else 0.

    Attributes:
        layout: the flash format.
        base: level = step of the alphabet * stored code + base.
        field_bits: width of F0.
        sum_halves: see above.
        first_step: see above.
        second_step: see above.
    """

    layout: FieldFormat
    base: int
    field_bits: int
    sum_halves: int
    first_step: int
    second_step: int

    @property
    def centre(self) -> int:
        """Added to F0 at the start of a chunk: the field is read unsigned."""
        return 1 << (self.field_bits - 1)

    def longest_chunk(self, levels: Levels, lengths: Sequence[int]) -> int | None:
        """The largest of `lengths` (taps between two flushes) that is proven, None where none is.

        Args:
            levels: (rows, taps) of the first channels of pairs, 0 where a tap is padding.
            lengths: candidates; where one does not divide the number of taps, the first chunk is shorter.
        """
        for length in sorted(lengths, reverse=True):
            chunks = np.pad(levels, ((0, 0), (-levels.shape[1] % length, 0))).reshape(-1, length)
            if np.all(signed_field_bits(*self.first_extremes(chunks)) <= self.field_bits):
                return length
        return None

    def first_extremes(self, chunks: Levels) -> tuple[Int64Array, Int64Array]:
        """Lowest and highest F0 over all activations, per chunk of levels (chunks, taps)."""
        lowest, highest = accumulator_extremes(chunks, 0, np.zeros(len(chunks), np.int64))
        if self.first_step == 1:
            return lowest, highest
        return lowest // 2, (highest + 1) // 2  # half an inner product, rounded either way

    def second_fits(self, levels: Levels) -> bool:
        """Whether F1 of levels (rows, taps) of the second channels is proven to fit above F0."""
        lowest, highest = accumulator_extremes(levels, 0, np.zeros(len(levels), np.int64))
        extremes = lowest // self.second_step, highest // self.second_step
        return bool(np.all(signed_field_bits(*extremes) <= 32 - self.field_bits))


def signed_field_bits(lowest: Int64Array, highest: Int64Array) -> Int64Array:
    """Width in bits of two's complement fields that hold [lowest, highest], element by element."""
    pairs_of_bounds = zip(lowest.tolist(), highest.tolist(), strict=True)
    return np.array([signed_bits(low, high) for low, high in pairs_of_bounds], dtype=np.int64)


def pair_code(alphabet: Alphabet) -> PairCode | None:
    """How pairs store the levels of an alphabet; None where they cannot.

    Two bits with step 1 are stored as level + 2, so that neither field needs a correction.
    """
    if alphabet.values.tolist() == [-1, 1]:
        return PairCode(pairs(1), -1, 15, sum_halves=2, first_step=1, second_step=2)
    if alphabet.values.tolist() == [-3, -1, 1, 3]:
        return PairCode(pairs(2), -3, 14, sum_halves=3, first_step=2, second_step=2)
    if alphabet.step == 1 and alphabet.offset >= -2 and alphabet.values[-1] <= 1:
        return PairCode(pairs(2), -2, 14, sum_halves=4, first_step=1, second_step=1)
    return None


def padded_rows(rows: Levels, groups: int) -> Levels:
    """Rows (out, taps) with each of `groups` equal parts padded by zero rows to a multiple of four."""
    parts = rows.reshape(groups, -1, *rows.shape[1:])
    missing = -parts.shape[1] % CHANNELS
    padding = [(0, 0), (0, missing)] + [(0, 0)] * (parts.ndim - 2)
    return np.pad(parts, padding).reshape(-1, *rows.shape[1:])


def channel_table(accumulation: Accumulation, groups: int, correction: Levels | None = None) -> Array:
    """The table of interleaved {bias, multiplier}, int32, per channel, each group padded to fours.

    Args:
        accumulation: of the layer.
        groups: of the convolution, 1 for a fully connected layer.
        correction: (CHANNELS,), added to the bias of every group of four channels.

    Raises:
        ValueError: a bias leaves int32 when its correction is added or taken off.
    """
    folded = accumulation.folded_bias
    bias = padded_rows(folded, groups)
    corrections = np.resize(np.zeros(CHANNELS, np.int64) if correction is None else correction, len(bias))
    if (np.abs(bias) + np.abs(corrections)).max(initial=0) > INT32_MAX:
        raise ValueError("a folded bias leaves int32")
    bias = bias + corrections
    multiplier = np.broadcast_to(accumulation.stage.multiplier, folded.shape)
    return np.stack([bias, padded_rows(multiplier, groups)], axis=1).reshape(-1).astype(np.int32)


def clamp_tables(accumulation: Accumulation) -> dict[str, Array]:
    """The clamps of an output stage where they differ between channels; multipliers are in the table."""
    stage, channels = accumulation.stage, len(accumulation.bias)
    if not stage.per_channel_clamp:
        return {}
    return {
        "stage.channel_low": np.broadcast_to(stage.low, (channels,)).astype(np.int8),
        "stage.channel_high": np.broadcast_to(stage.high, (channels,)).astype(np.int8),
    }


def stage_variant(accumulation: Accumulation) -> dict[str, int]:
    """The variant of an output stage: "direct" where clamps are those of int8, "shifted" where LSL precedes.

    SMMLAR and SSAT #8 are the whole of a direct stage, with LSL before them where it is shifted, too.
    """
    stage = accumulation.stage
    whole = bool(np.all(stage.low == -128) and np.all(stage.high == 127))
    direct = whole and not stage.per_channel_clamp
    return {"direct": int(direct), "shifted": int(direct and stage.shift > 0)}

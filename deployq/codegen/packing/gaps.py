"""The flash format of sparse ternary weights: zero weights take no space.

A row is the list of its taps of level +1 and the list of those of level -1, each tap coded as its
distance from the one before it in the list. Four bits suffice for nearly all distances at the
densities that quantizers produce (a quarter to a half of the weights), eight for sparser rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from deployq.codegen.packing.streams import Codes

Levels = npt.NDArray[Any]
Lists = tuple[list[int], list[int]]

_HEADER_BYTES = 4

#: Weights of a row at most; with the taps that break gaps, a list is at most twice as long.
LONGEST_ROW = 2**15 - 1


@dataclass(frozen=True)
class GapFormat:
    """Rows of ternary levels as two lists of gaps.

    A gap that is too wide is broken by a tap that enters both lists: it is added and subtracted, so the
    kernel needs neither an escape code nor a branch.

    Attributes:
        bits: of a gap, 4 or 8.
    """

    name: ClassVar[str] = "gaps"
    bits: int

    @property
    def largest(self) -> int:
        """The largest gap."""
        return (1 << self.bits) - 1

    def list_bytes(self, count: int) -> int:
        """Flash bytes of a list of `count` gaps."""
        return -(-count * self.bits // 8)

    def pack(self, levels: Levels) -> PackedGaps:
        """Rows (rows, taps) of levels -1, 0 and +1, one after the other.

        Raises:
            ValueError: another level, or a row that its 16-bit counts may not suffice for.
        """
        if np.any(np.abs(levels) > 1):
            raise ValueError("the format holds the levels -1, 0 and +1")
        if levels.shape[1] > LONGEST_ROW:
            raise ValueError(f"a row of {levels.shape[1]} weights is too long for 16-bit counts")
        parts, listed = [np.zeros(0, np.uint8)], 0
        for row in levels:
            lists = gap_lists(row, self.largest)
            counts = [len(taps) for taps in lists]
            parts.append(np.array(counts, "<u2").view(np.uint8))
            parts += [self._pack_list(taps) for taps in lists]
            listed += sum(counts)
        return PackedGaps(self, np.concatenate(parts), listed)

    def _pack_list(self, taps: Sequence[int]) -> Codes:
        gaps = np.diff(np.array(taps, np.int64), prepend=0).astype(np.uint8)
        if self.bits == 8:
            return gaps
        pairs = np.append(gaps, np.zeros(len(gaps) % 2, np.uint8)).reshape(-1, 2)
        return np.asarray(pairs[:, 0] | pairs[:, 1] << 4, np.uint8)

    def unpack(self, packed: Codes, rows: int, taps: int) -> npt.NDArray[np.int16]:
        """The levels (rows, taps) of the bytes of `PackedGaps`."""
        levels = np.zeros((rows, taps), np.int16)
        at = 0
        for row in levels:
            counts = packed[at : at + _HEADER_BYTES].view("<u2")
            at += _HEADER_BYTES
            for count, sign in zip(map(int, counts), (1, -1), strict=True):
                gaps = packed[at : at + self.list_bytes(count)]
                at += len(gaps)
                if self.bits == 4:
                    gaps = np.stack([gaps & 15, gaps >> 4], axis=1).reshape(-1)[:count]
                np.add.at(row, np.cumsum(gaps, dtype=np.int64), sign)
        return levels

    def comment(self) -> str:
        """What a C comment says about the format."""
        pairs = ", two to a byte, the first in the low half" if self.bits == 4 else ""
        return (
            f"rows of two 16-bit little-endian counts and two lists of {self.bits}-bit gaps{pairs}; lists "
            "start at a byte. A gap leads from one tap to the next, the first from tap 0. The first list "
            "holds the taps of weight +1, the second those of weight -1; a tap in both has weight 0 and "
            "breaks a wide gap."
        )


#: The formats there are kernels for.
GAP_FORMATS = (GapFormat(4), GapFormat(8))


@dataclass(frozen=True)
class PackedGaps:
    """Weights in flash.

    Attributes:
        layout: the format.
        data: bytes of all rows.
        listed: taps in all lists: non-zero weights, and twice those that break wide gaps.
    """

    layout: GapFormat
    data: Codes
    listed: int


def gap_lists(row: Levels, largest: int) -> Lists:
    """The taps to add and the taps to subtract, ascending, in steps of at most `largest`.

    A tap that breaks a wide gap is put as far as the more urgent list reaches. As it enters both
    lists, a list that has come to its end goes along as long as the other still has wide gaps.

    Args:
        row: levels -1, 0, +1 (taps,).
        largest: the largest gap.
    """
    ahead = [np.flatnonzero(row == sign).tolist()[::-1] for sign in (1, -1)]  # the next one is the last
    wide_until = [_end_of_last_wide_gap(taps[::-1], largest) for taps in ahead]
    found: Lists = ([], [])
    last = [0, 0]
    while ahead[0] or ahead[1]:
        following = min(taps[-1] for taps in ahead if taps)
        limit = following
        for side in (0, 1):
            if ahead[side]:
                urgent = ahead[side][-1] - last[side] > largest
            else:
                urgent = wide_until[1 - side] > last[1 - side]
            if urgent:
                limit = min(limit, last[side] + largest)
        for side in (0, 1):
            if limit < following or (ahead[side] and ahead[side][-1] == following):
                found[side].append(limit)
                last[side] = limit
                if limit == following:
                    ahead[side].pop()
    return found


def _end_of_last_wide_gap(taps: Sequence[int], largest: int) -> int:
    """The tap after the last gap above `largest`; 0 without such a gap."""
    before = (0, *taps)
    return max(
        (tap for tap, previous in zip(taps, before, strict=False) if tap - previous > largest), default=0
    )

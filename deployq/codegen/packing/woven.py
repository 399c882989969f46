"""The flash formats of three, five and six bits for SMLAD, without a lost bit.

Kernels are fastest where a word holds fields of four or eight bits (`fields`). Narrower codes leave the
top bits of every field over; those of several stored words make up further words. Such a derived word is
the exclusive or of stored words, each rotated to the right by its own number of places: what comes along
of their codes is known when weights are packed, and the spare bits are chosen such that the codes of the
derived word come out, at the top of its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deployq.codegen.packing.fields import CHANNELS, Codes, FieldFormat, Words, byte_pairs, linked


class Source(NamedTuple):
    """A stored word that a derived word is made from.

    Attributes:
        word: index in the unit.
        rotation: places it is rotated to the right.
        chosen: its bits that are chosen for the sake of this derived word.
    """

    word: int
    rotation: int
    chosen: int


@dataclass(frozen=True)
class WovenFormat:
    """How codes narrower than their fields lie in flash.

    Attributes:
        fields: where codes are in stored and derived words; all unsigned.
        bits: width of a code.
        unit_taps: taps of a unit.
        derived: the sources of each derived word; the derived words of a unit follow the stored ones.
    """

    fields: FieldFormat
    bits: int
    unit_taps: int
    derived: tuple[tuple[Source, ...], ...]

    @property
    def name(self) -> str:
        """What the generated C calls the format."""
        return f"woven {self.fields.name}"

    @property
    def turn(self) -> int:
        """Places by which a derived word is rotated to the right in the end: its codes move into place."""
        return self.fields.bits - self.bits

    @property
    def mask(self) -> int:
        """All codes of a word."""
        return sum((1 << self.bits) - 1 << place for place in range(0, 32, self.fields.bits))

    @property
    def unit_words(self) -> int:
        """Stored words of a unit."""
        return self._all_words - len(self.derived)

    @property
    def _all_words(self) -> int:
        """Words of a unit, stored or derived."""
        return self.unit_taps // self.fields.unit_taps * self.fields.unit_words

    def row_words(self, taps: int) -> int:
        """Words of one group of four channels."""
        return -(-taps // self.unit_taps) * self.unit_words

    def pack(self, codes: Codes, present: npt.NDArray[np.bool_] | None = None) -> Words:
        """Pack the codes of all output channels; as `FieldFormat.pack`.

        Raises:
            ValueError: a code does not fit.
        """
        if codes.size and int(codes.max()) >> self.bits:
            raise ValueError(f"code {codes.max()} does not fit {self.bits} bits")
        padded = codes if present is None else codes * present
        padded = np.pad(padded, [(0, 0), (0, -codes.shape[1] % self.unit_taps)]).astype(np.uint8)
        whole = self.fields.pack(padded).reshape(-(-len(codes) // CHANNELS), -1, self._all_words)
        stored = whole[:, :, : self.unit_words].copy()
        for index, sources in enumerate(self.derived):
            wanted = _rotated(whole[:, :, self.unit_words + index], -self.turn)
            difference = self._combined(stored, sources) ^ wanted
            for source in sources:
                stored[:, :, source.word] ^= _rotated(difference, -source.rotation) & np.uint32(source.chosen)
        return stored.reshape(len(whole), -1)

    def unpack(self, words: Words, out: int, taps: int) -> Codes:
        """The codes (out, taps) of `words` from `pack`."""
        stored = words.reshape(len(words), -1, self.unit_words)
        derived = [_rotated(self._combined(stored, sources), self.turn) for sources in self.derived]
        whole = np.concatenate([stored, np.stack(derived, axis=2)], axis=2) & np.uint32(self.mask)
        return self.fields.unpack(whole.reshape(len(words), -1), out, taps)

    @staticmethod
    def _combined(stored: Words, sources: Sequence[Source]) -> Words:
        """Exclusive or of the rotated sources of units (..., units, stored words)."""
        parts = [_rotated(stored[..., source.word], source.rotation) for source in sources]
        combined: Words = np.bitwise_xor.reduce(parts)
        return combined

    def comment(self) -> str:
        """What a C comment says about the format."""
        derived = ", ".join(
            f"word {self.unit_words + index} = ("
            + " ^ ".join(f"word {word}" + f" ror {turn}" * (turn > 0) for word, turn, _ in sources)
            + f") ror {self.turn}"
            for index, sources in enumerate(self.derived)
        )
        return (
            f"32-bit words for groups of four output channels; {self.unit_words} words hold {self.unit_taps} "
            "taps. The bits above codes in their fields make up further words, after these: "
            f"{derived}. Every {self.fields.unit_words} words hold {self.fields.unit_taps} taps, with "
            f"{self.bits}-bit codes at the bottom of fields. {self.fields.places}"
        )


#: Formats whose lanes hold codes of several output channels.
LaneFormat = FieldFormat | WovenFormat


def woven(bits: int) -> WovenFormat:
    """The format of three bits (fields of four, as in `linked`), five or six bits (fields of eight).

    Raises:
        ValueError: there is none for this width.
    """
    unsigned = (False, False, False, False)
    if bits == 3:
        fields = replace(linked(), signed=unsigned)
        return WovenFormat(fields, 3, 8, (tuple(Source(i, i, 0x88888888) for i in range(3)),))
    fields = replace(byte_pairs(), signed=unsigned)
    if bits == 5:
        pairs = tuple((Source(i, 0, 0xE0E0E0E0), Source(i + 1, 3, 0xC0C0C0C0)) for i in (0, 2))
        rest = (Source(4, 0, 0xE0E0E0E0), Source(1, 1, 0x20202020), Source(3, 2, 0x20202020))
        return WovenFormat(fields, 5, 8, (*pairs, rest))
    if bits == 6:
        return WovenFormat(fields, 6, 4, (tuple(Source(i, 2 * i, 0xC0C0C0C0) for i in range(3)),))
    raise ValueError(f"no woven words of {bits} bits")


def _rotated(words: Words, places: int) -> Words:
    """Words rotated right by -31 to 31 places."""
    turn = np.uint32(places % 32)
    rotated: Words = words >> turn | words << (np.uint32(32) - turn) % np.uint32(32)
    return rotated

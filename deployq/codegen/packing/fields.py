"""Flash formats whose words hold the codes of four output channels, for kernels with SMLAD.

A lane (16 bits) of a masked word is a small polynomial in the codes of several output channels for the
same input, so that one SMLAD adds the products of one activation with all of them. The two lanes of a
word belong to taps k and k + 2, the order in which SXTB16 expands four activations. Packing, unpacking
and the comment in the generated C follow from one table: the place of each code in a unit of words.

A code is stored unsigned, or, where its field ends at the top of a lane, in two's complement (its top
bit inverted). A field of zero bits adds nothing to any sum, whatever the activation: padding is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]

#: Output channels whose codes share words.
CHANNELS = 4

#: (lane, step) of each of four taps: SXTB16 makes the operands (x0, x2), then (x1, x3).
_PLACE_OF_TAP = ((0, 0), (0, 1), (1, 0), (1, 1))

#: Width of a code: places of both channels of a pair in a masked lane, rotations.
_PAIRS = {1: ((1, 15), (0, 1, 4, 5, 8, 9, 12, 13)), 2: ((0, 14), (0, 4, 8, 12))}


@dataclass(frozen=True)
class FieldFormat:
    """How the codes of a group of four output channels lie in flash.

    Attributes:
        name: "pairs", "linked" or "bytes".
        bits: width of a field, at least that of a code.
        unit_taps: taps of a unit.
        unit_words: 32-bit words of a unit.
        positions: bit of the unit's words (word * 32 + bit) where the field of [tap][channel] starts.
        signed: per channel, whether its fields are two's complement.
        masks: what isolates the channels of a lane (see the functions below).
        rotations: of the word to the right, before it is masked; () where none is needed.
    """

    name: str
    bits: int
    unit_taps: int
    unit_words: int
    positions: tuple[tuple[int, int, int, int], ...]
    signed: tuple[bool, bool, bool, bool]
    masks: tuple[int, ...]
    rotations: tuple[int, ...] = ()

    def row_words(self, taps: int) -> int:
        """Words of one group of four channels."""
        return -(-taps // self.unit_taps) * self.unit_words

    def pack(self, codes: Codes, present: npt.NDArray[np.bool_] | None = None) -> Words:
        """Pack the codes of all output channels.

        Args:
            codes: (out, taps), below 2^bits.
            present: (taps,); taps for which it is false are padding. All are present by default.

        Returns:
            Words (groups, row_words) with ceil(out / 4) groups; missing channels and taps are zero.

        Raises:
            ValueError: a code does not fit a field.
        """
        out, taps = codes.shape
        if codes.size and int(codes.max()) >> self.bits:
            raise ValueError(f"code {codes.max()} does not fit {self.bits} bits")
        groups, units = -(-out // CHANNELS), -(-taps // self.unit_taps)
        flipped = codes.astype(np.uint64) ^ self._inverted(out)[:, np.newaxis]
        fields = np.zeros((groups * CHANNELS, units * self.unit_taps), dtype=np.uint64)
        fields[:out, :taps] = flipped if present is None else flipped * present
        fields = fields.reshape(groups, CHANNELS, units, self.unit_taps)
        words = np.zeros((groups, units, self.unit_words), dtype=np.uint64)
        for tap, places in enumerate(self.positions):
            for channel, place in enumerate(places):
                word, bit = divmod(place, 32)
                words[:, :, word] |= fields[:, channel, :, tap] << np.uint64(bit)
        return words.reshape(groups, -1).astype(np.uint32)

    def unpack(self, words: Words, out: int, taps: int) -> Codes:
        """The codes (out, taps) of `words` from `pack`; padding among the taps comes out as it was stored."""
        units = words.reshape(len(words), -1, self.unit_words)
        mask = np.uint32((1 << self.bits) - 1)
        codes = np.empty((len(words), CHANNELS, units.shape[1], self.unit_taps), dtype=np.uint8)
        for tap, places in enumerate(self.positions):
            for channel, place in enumerate(places):
                word, bit = divmod(place, 32)
                codes[:, channel, :, tap] = units[:, :, word] >> np.uint32(bit) & mask
        flat = codes.reshape(len(words) * CHANNELS, -1)[:out, :taps]
        return (flat ^ self._inverted(out)[:, np.newaxis]).astype(np.uint8)

    def _inverted(self, out: int) -> npt.NDArray[np.uint64]:
        """What each channel's codes are combined with by exclusive or."""
        top = 1 << (self.bits - 1)
        per_group = np.array([top if signed else 0 for signed in self.signed], dtype=np.uint64)
        return np.resize(per_group, out)

    def comment(self) -> str:
        """What a C comment says about the format."""
        return (
            f"32-bit words for groups of four output channels; {self.unit_words} "
            f"word{'s' * (self.unit_words > 1)} hold{'s' * (self.unit_words == 1)} {self.unit_taps} taps. "
            f"{self.places}"
        )

    @property
    def places(self) -> str:
        """The sentence that says where every field is."""
        rows = "; ".join(
            f"tap {tap}: " + ", ".join(f"{place // 32}.{place % 32}" for place in places)
            for tap, places in enumerate(self.positions)
        )
        return f"Place (word.bit) of the {self.bits}-bit fields of channels 0 to 3 - {rows}."


def pairs(bits: int) -> FieldFormat:
    """Two channels a lane, for codes of one or two bits: four products in one SMLAD.

    Lane = code0 + code1 * 2^14 (one bit: 2 * code0 + code1 * 2^15), code1 in two's complement. One AND
    with the word rotated right by rotations[2 * step + pair] extracts a pair of channels for two taps;
    the rotations use disjoint bits, so that no bit of flash is lost.

    Raises:
        ValueError: wider codes do not fit.
    """
    if bits not in _PAIRS:
        raise ValueError(f"no pairs of {bits} bits")
    places, rotations = _PAIRS[bits]
    unit_taps = len(rotations)
    positions = []
    for tap in range(unit_taps):
        lane, step = _PLACE_OF_TAP[tap % 4]
        turns = rotations[2 * (tap // 4 * 2 + step) :][:2]
        first, second = ([(16 * lane + bit + turn) % 32 for bit in places] for turn in turns)
        positions.append((first[0], first[1], second[0], second[1]))
    mask = sum(((1 << bits) - 1) << (place + lane) for place in places for lane in (0, 16))
    return FieldFormat(
        "pairs", bits, unit_taps, 1, tuple(positions), (False, True, False, True), (mask,), rotations
    )


def linked() -> FieldFormat:
    """Four 4-bit channels a lane whose sums follow from three accumulators.

    Lane = a + 16 b + 256 c' + 4096 d, d in two's complement, c' of the tap of the word's other lane. Masks
    leave a + 16 b, 16 b + 4096 d and, of the word rotated by 24, c + 256 a of one tap: channels that two
    of them have in common tell the others apart.
    """
    positions = []
    for lane, step in _PLACE_OF_TAP:
        base, other = 32 * step + 16 * lane, 32 * step + 16 * (1 - lane)
        positions.append((base, base + 4, other + 8, base + 12))
    masks = (0x00FF00FF, 0xF0F0F0F0, 0x0F0F0F0F)
    return FieldFormat("linked", 4, 4, 2, tuple(positions), (False, False, False, True), masks, (0, 0, 24))


def byte_pairs() -> FieldFormat:
    """Two 8-bit channels a lane: a + 256 b, b in two's complement.

    The mask (UXTB16) isolates a; the word itself is the second operand.
    """
    positions = []
    for lane, step in _PLACE_OF_TAP:
        base = 64 * step + 16 * lane
        positions.append((base, base + 8, base + 32, base + 40))
    return FieldFormat("bytes", 8, 4, 4, tuple(positions), (False, True, False, True), (0x00FF00FF,))

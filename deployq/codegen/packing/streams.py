"""The flash formats of low-bit weights, each described once, and the only packer.

A `PackedFormat` says where the k-th code of a unit of bytes sits and in which order the taps of a
row are taken. Packing, unpacking, the comment in the generated C and the constants its kernels
use all follow from that description.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]

#: Order in which SXTB16 expands four consecutive activations x0..x3: the words (x0, x2), (x1, x3).
_SXTB16_ORDER = (0, 2, 1, 3)

#: `lanes` is used only where it needs at most this much more flash than `dense`.
_LARGEST_LANE_OVERHEAD = 1.1


@dataclass(frozen=True)
class PackedFormat:
    """How the codes of one row (one output channel) lie in flash.

    Attributes:
        name: "dense" or "lanes".
        bits: width of a code.
        unit_bytes: size of the little-endian integer that holds one unit of codes.
        positions: lowest bit of the k-th code of a unit.
        tap_order: taps of each group of `len(tap_order)` in the order in which they are stored.
        row_align: rows are padded to a multiple of this many bytes.
    """

    name: str
    bits: int
    unit_bytes: int
    positions: tuple[int, ...]
    tap_order: tuple[int, ...]
    row_align: int

    @property
    def mask(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    @property
    def codes_per_unit(self) -> int:
        """Codes in one unit."""
        return len(self.positions)

    def row_bytes(self, taps: int) -> int:
        """Flash bytes of a row of `taps` codes, padding included."""
        slots = _round_up(taps, len(self.tap_order))
        whole, rest = divmod(slots, self.codes_per_unit)
        last = max((self.positions[index] + self.bits for index in range(rest)), default=0)
        return _round_up(whole * self.unit_bytes + -(-last // 8), self.row_align)

    def pack(self, codes: Codes, neutral: int = 0) -> Codes:
        """Pack rows of codes.

        Args:
            codes: (rows, taps), each below 2^bits.
            neutral: code that fills the padding.

        Returns:
            Bytes (rows, row_bytes).

        Raises:
            ValueError: a code does not fit `bits`.
        """
        rows, taps = codes.shape
        if codes.size and int(codes.max()) > self.mask:
            raise ValueError(f"code {codes.max()} does not fit {self.bits} bits")
        slots = self._slots(taps)
        padded = np.full((rows, slots), neutral, dtype=np.uint64)
        padded[:, :taps] = codes
        ordered = padded[:, self._tap_of_slot(slots)].reshape(rows, -1, self.codes_per_unit)
        units = np.zeros(ordered.shape[:2], dtype=np.uint64)
        for index, position in enumerate(self.positions):
            units |= ordered[:, :, index] << np.uint64(position)
        as_bytes = units.astype("<u8").view(np.uint8).reshape(*units.shape, 8)[:, :, : self.unit_bytes]
        return np.ascontiguousarray(as_bytes.reshape(rows, -1)[:, : self.row_bytes(taps)])

    def unpack(self, packed: Codes, taps: int) -> Codes:
        """The codes (rows, taps) of bytes (rows, row_bytes)."""
        rows, slots = packed.shape[0], self._slots(taps)
        units = slots // self.codes_per_unit
        whole = np.zeros((rows, units * self.unit_bytes), dtype=np.uint8)
        whole[:, : packed.shape[1]] = packed
        padded = np.zeros((rows, units, 8), dtype=np.uint8)
        padded[:, :, : self.unit_bytes] = whole.reshape(rows, units, self.unit_bytes)
        values = padded.view("<u8")[:, :, 0]
        fields = [values >> np.uint64(position) & np.uint64(self.mask) for position in self.positions]
        ordered = np.stack(fields, axis=2).reshape(rows, -1)
        codes = np.empty_like(ordered)
        codes[:, self._tap_of_slot(slots)] = ordered
        return codes[:, :taps].astype(np.uint8)

    def _slots(self, taps: int) -> int:
        """Codes per row with padding to whole units and whole groups of taps."""
        return _round_up(taps, int(np.lcm(self.codes_per_unit, len(self.tap_order))))

    def _tap_of_slot(self, slots: int) -> npt.NDArray[np.int64]:
        group = len(self.tap_order)
        first = np.arange(0, slots, group)[:, np.newaxis]
        taps: npt.NDArray[np.int64] = (first + np.array(self.tap_order)).reshape(-1)
        return taps

    def extract(self, index: int, unit: str = "b") -> str:
        """C expression of the code `index` of a unit whose bytes are the uint32_t unit0, unit1, ..."""
        byte, shift = divmod(self.positions[index], 8)
        low = f"{unit}{byte} >> {shift}" if shift else f"{unit}{byte}"
        if shift + self.bits < 8:
            return f"({low}) & {self.mask}u" if shift else f"{low} & {self.mask}u"
        if shift + self.bits == 8:
            return low
        return f"(({low}) | ({unit}{byte + 1} << {8 - shift})) & {self.mask}u"

    @property
    def lane_mask(self) -> str:
        """C literal that masks the lowest field of both halves of a word of `lanes`."""
        return f"0x{self.mask << 16 | self.mask:08x}u"

    def comment(self) -> str:
        """What a C comment says about the format."""
        if self.name == "lanes":
            return (
                f"32-bit words of {self.codes_per_unit} codes of {self.bits} bits. Field i (bits "
                f"{self.bits}*i and 16 + {self.bits}*i) of word w meets operand "
                f"{self.codes_per_unit // 2}*w + i; activations x0..x3 make the operands (x0, x2), "
                "(x1, x3). Rows are whole words."
            )
        return (
            f"little-endian stream of {self.bits}-bit codes, code i in bits {self.bits}*i to "
            f"{self.bits}*i + {self.bits - 1}; rows start at a byte."
        )


def dense(bits: int) -> PackedFormat:
    """A little-endian bit stream; rows padded to a byte."""
    codes = next(count for count in (4, 8) if count * bits % 8 == 0)
    positions = tuple(index * bits for index in range(codes))
    return PackedFormat("dense", bits, codes * bits // 8, positions, tap_order=(0,), row_align=1)


def lanes(bits: int) -> PackedFormat:
    """32-bit words whose halves hold the codes of two taps at equal positions, for SMLAD.

    One AND with a shifted word extracts the codes of two taps as 16-bit operands.
    """
    fields = 16 // bits
    positions = tuple(field * bits + half * 16 for field in range(fields) for half in range(2))
    return PackedFormat("lanes", bits, 4, positions, _SXTB16_ORDER, row_align=4)


def lanes_worthwhile(bits: int) -> bool:
    """Whether `lanes` is about as dense as `dense`: all widths but 6 and 7 bits."""
    return 16 / (16 // bits) <= _LARGEST_LANE_OVERHEAD * bits


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple

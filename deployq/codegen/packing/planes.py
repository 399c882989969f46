"""The flash format of the kernels for cores without DSP: bit planes that index tables of sums.

Eight inputs share a byte in every plane. Its two halves choose one of the sixteen partial sums that the
kernel has computed of four inputs; planes are worth 2^(bits - 1) .. 1, the highest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deployq.codegen.packing.streams import Codes

#: Inputs whose bits share a byte.
BYTE_INPUTS = 8


@dataclass(frozen=True)
class PlaneFormat:
    """Rows of codes as bit planes, one chunk of inputs after the other.

    Attributes:
        bits: of a code, 1 to 8.
        chunk: inputs whose planes stand together, a multiple of eight; the last chunk of a row may be
            shorter and is padded to a multiple of eight with codes 0.
    """

    name: ClassVar[str] = "planes"
    bits: int
    chunk: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8 or self.chunk <= 0 or self.chunk % BYTE_INPUTS:
            raise ValueError(f"no planes of {self.bits} bits in chunks of {self.chunk}")

    def row_bytes(self, taps: int) -> int:
        """Flash bytes of a row of `taps` codes."""
        return -(-taps // BYTE_INPUTS) * self.bits

    def pack(self, codes: Codes) -> Codes:
        """Pack rows of codes (rows, taps), each below 2^bits, into bytes (rows, row_bytes).

        Raises:
            ValueError: a code does not fit.
        """
        if codes.size and int(codes.max()) >> self.bits:
            raise ValueError(f"code {codes.max()} does not fit {self.bits} bits")
        parts = []
        for begin in range(0, codes.shape[1], self.chunk):
            part = codes[:, begin : begin + self.chunk]
            planes = [(part >> bit) & 1 for bit in reversed(range(self.bits))]
            parts += [np.packbits(plane, axis=1, bitorder="little") for plane in planes]
        return np.concatenate(parts, axis=1)

    def unpack(self, packed: Codes, taps: int) -> Codes:
        """The codes (rows, taps) of packed rows."""
        codes = np.zeros((len(packed), taps), np.uint8)
        at = 0
        for begin in range(0, taps, self.chunk):
            count = min(self.chunk, taps - begin)
            size = -(-count // BYTE_INPUTS)
            for bit in reversed(range(self.bits)):
                plane = np.unpackbits(packed[:, at : at + size], axis=1, count=count, bitorder="little")
                codes[:, begin : begin + count] |= plane << bit
                at += size
        return codes

    def comment(self) -> str:
        """What a C comment says about the format."""
        return (
            f"a row is cut into chunks of {self.chunk} codes; a chunk is {self.bits} bit planes, the highest "
            f"first; bit k of byte i of a plane belongs to code {BYTE_INPUTS} i + k of the chunk, and the "
            "bits after the last code are 0."
        )

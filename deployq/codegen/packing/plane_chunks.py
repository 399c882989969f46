"""The flash format of fully connected layers that look sums of eight inputs up by bytes of bit planes.

The tables of a chunk of inputs serve all output channels before the next chunk needs their place. So
the weights of a chunk stand together, one output channel after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from deployq.codegen.packing.planes import BYTE_INPUTS, PlaneFormat
from deployq.codegen.packing.streams import Codes


@dataclass(frozen=True)
class PlaneChunkFormat:
    """Chunks of `tables` bytes per plane as long as there are inputs for them, then chunks of one byte.

    Attributes:
        bits: of a code, 1 to 8.
        tables: bytes of a plane in a whole chunk, each of eight inputs.
        channels: output channels are padded to a multiple of this number, with codes 0.
    """

    name: ClassVar[str] = "plane chunks"
    bits: int
    tables: int
    channels: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8 or self.tables <= 0 or self.channels <= 0:
            raise ValueError(f"no chunks of {self.bits} bits in {self.tables} bytes")

    def chunks(self, taps: int) -> tuple[int, int]:
        """(whole chunks, chunks of one byte) of `taps` inputs."""
        return divmod(-(-taps // BYTE_INPUTS), self.tables)

    def padded(self, channels: int) -> int:
        """Output channels with those of padding."""
        return -(-channels // self.channels) * self.channels

    def pack(self, codes: Codes) -> npt.NDArray[np.uint8]:
        """Bytes of codes (channels, taps), each below 2^bits, shape (bytes,).

        Raises:
            ValueError: a code does not fit.
        """
        rows, taps = codes.shape
        whole, _ = self.chunks(taps)
        padded = np.zeros((self.padded(rows), taps), np.uint8)
        padded[:rows] = codes
        at = min(whole * self.tables * BYTE_INPUTS, taps)
        parts = [
            PlaneFormat(self.bits, BYTE_INPUTS * tables)
            .pack(part)
            .reshape(len(padded), -1, self.bits * tables)
            .transpose(1, 0, 2)
            .reshape(-1)
            for part, tables in ((padded[:, :at], self.tables), (padded[:, at:], 1))
            if part.shape[1]
        ]
        return np.concatenate(parts)

    def unpack(self, packed: npt.NDArray[np.uint8], channels: int, taps: int) -> Codes:
        """The codes (channels, taps) of `pack`."""
        rows = self.padded(channels)
        whole, single = self.chunks(taps)
        parts, begin = [], 0
        for chunks, tables in ((whole, self.tables), (single, 1)):
            size = self.bits * tables
            part = packed[begin : begin + chunks * rows * size].reshape(chunks, rows, size)
            begin += part.size
            inputs = BYTE_INPUTS * tables
            layout = PlaneFormat(self.bits, inputs)
            parts += [layout.unpack(chunk, inputs) for chunk in part]
        return np.concatenate(parts, axis=1)[:channels, :taps]

    def comment(self) -> str:
        """What a C comment says about the format."""
        left = f", those left over into chunks of {BYTE_INPUTS}" if self.tables > 1 else ""
        return (
            f"the inputs are cut into chunks of {BYTE_INPUTS * self.tables}{left}. In a chunk one output "
            f"channel follows the other, a multiple of {self.channels} in all; each has {self.bits} bit "
            f"planes, the highest first, one byte per {BYTE_INPUTS} inputs, the first in bit 0. Bits beyond "
            "the last input or channel are 0."
        )

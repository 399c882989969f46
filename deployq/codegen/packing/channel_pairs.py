"""The flash format of fully connected layers for cores without DSP: two output channels in a word.

The halves of a word hold codes of two channels for the same inputs, so that one AND extracts
code0 + 2^16 * code1, and one multiplication by an input serves both channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from deployq.codegen.packing.streams import Codes

#: Pairs of channels that are computed together; the pairs left over come one by one.
QUAD = 4


@dataclass(frozen=True)
class ChannelPairFormat:
    """Groups of four pairs of channels, then single pairs; an odd last channel has a partner of codes 0.

    Attributes:
        bits: of a code, 1 to 5.
    """

    name: ClassVar[str] = "channel pairs"
    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 5:
            raise ValueError(f"no pairs of {self.bits} bits")

    @property
    def inputs(self) -> int:
        """Inputs whose codes share a word."""
        return 16 // self.bits

    @property
    def mask(self) -> str:
        """C literal of the mask that extracts the codes of one input."""
        return f"0x{((1 << self.bits) - 1) * 0x10001:08x}u"

    def pack(self, codes: Codes) -> npt.NDArray[np.uint32]:
        """Words of codes (channels, taps), each below 2^bits, shape (words,).

        Raises:
            ValueError: a code does not fit.
        """
        if codes.size and int(codes.max()) >> self.bits:
            raise ValueError(f"code {codes.max()} does not fit {self.bits} bits")
        channels, taps = codes.shape
        padded = np.zeros((channels + channels % 2, -(-taps // self.inputs) * self.inputs), np.uint32)
        padded[:channels, :taps] = codes
        fields = padded.reshape(len(padded) // 2, 2, -1, self.inputs)
        shifts = self.bits * np.arange(self.inputs, dtype=np.uint32)
        halves = (fields << shifts).sum(axis=3, dtype=np.uint32)
        words = halves[:, 0] | halves[:, 1] << np.uint32(16)  # (pairs, words of a row)
        quads = len(words) // QUAD * QUAD
        together = words[:quads].reshape(-1, QUAD, words.shape[1]).transpose(0, 2, 1)
        return np.concatenate([together.reshape(-1), words[quads:].reshape(-1)])

    def unpack(self, words: npt.NDArray[np.uint32], channels: int, taps: int) -> Codes:
        """The codes (channels, taps) of `pack`."""
        pairs, length = (channels + 1) // 2, -(-taps // self.inputs)
        quads = pairs // QUAD * QUAD
        together = words[: quads * length].reshape(-1, length, QUAD).transpose(0, 2, 1).reshape(-1, length)
        rows = np.concatenate([together, words[quads * length :].reshape(-1, length)])
        halves = np.stack([rows & 0xFFFF, rows >> np.uint32(16)], axis=1)
        shifts = self.bits * np.arange(self.inputs, dtype=np.uint32)
        fields = (halves[..., np.newaxis] >> shifts) & ((1 << self.bits) - 1)
        return fields.reshape(2 * pairs, -1)[:channels, :taps].astype(np.uint8)

    def comment(self) -> str:
        """What a C comment says about the format."""
        return (
            f"the low half of a word holds {self.inputs} codes of a channel, from bit 0 on, the high half "
            f"those of the next channel. {QUAD} pairs of channels take turns word by word; the pairs left "
            "over follow one after the other. Codes beyond the last input or channel are 0."
        )

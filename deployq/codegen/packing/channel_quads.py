"""The flash format of fully connected layers for 64-bit sums: codes of four output channels in a word.

Masked, a word is code0 + 2^24 * code1, and turned by half a word and masked code2 + 2^24 * code3: one
multiplication with a 64-bit sum serves two channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from deployq.codegen.packing.streams import Codes

#: Output channels of a word.
QUAD = 4

#: Byte of the word that holds each channel.
_PLACES = (0, 3, 2, 1)


@dataclass(frozen=True)
class ChannelQuadFormat:
    """Rows of words, one for four channels: even channels hold the code itself, odd ones code - centre.

    Attributes:
        centre: makes the codes of odd channels signed; 0 to 128.
    """

    name: ClassVar[str] = "channel quads"
    centre: int

    def pack(self, codes: Codes) -> npt.NDArray[np.uint32]:
        """Words of codes (channels, taps), shape (words,); zeros for channels that are not there.

        Raises:
            ValueError: a code does not fit.
        """
        if codes.size and int(codes.max()) - self.centre > 127:
            raise ValueError(f"code {codes.max()} is more than 127 above {self.centre}")
        channels, taps = codes.shape
        stored = codes.copy()
        stored[1::2] -= np.uint8(self.centre)
        padded = np.zeros((-(-channels // QUAD) * QUAD, taps), np.uint32)
        padded[:channels] = stored
        shifts = 8 * np.array(_PLACES, np.uint32)[:, np.newaxis]
        words: npt.NDArray[np.uint32] = (padded.reshape(-1, QUAD, taps) << shifts).sum(
            axis=1, dtype=np.uint32
        )
        return words.reshape(-1)

    def unpack(self, words: npt.NDArray[np.uint32], channels: int, taps: int) -> Codes:
        """The codes (channels, taps) of `pack`."""
        shifts = 8 * np.array(_PLACES, np.uint32)[:, np.newaxis]
        stored = (words.reshape(-1, 1, taps) >> shifts).astype(np.uint8).reshape(-1, taps)[:channels]
        stored[1::2] += np.uint8(self.centre)
        return stored

    def comment(self) -> str:
        """What a C comment says about the format."""
        return (
            "a word holds an input's codes of four output channels, in bytes 0, 3, 2 and 1; those of the "
            "second and fourth less the centre, as signed numbers. Rows of words follow one after the other; "
            "channels that are not there are 0."
        )

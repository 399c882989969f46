"""The flash format of the Helium (MVE) kernels: a stream of vectors with one code per byte lane.

A kernel meets its weights as vectors of 16 lanes of eight bits. In flash, `8 / bits` consecutive vectors
share 16 bytes, a unit: field i of byte k belongs to lane k of the unit's vector i, so that one mask and one
shift of a whole vector register recover 16 codes. What a lane means is the kernel's business; the two
orders used are here as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

#: Byte lanes of a vector register.
LANES = 16

#: Output channels that a kernel computes together.
QUAD = 4


@dataclass(frozen=True)
class VectorFormat:
    """How vectors of 16 codes share bytes.

    Attributes:
        bits: width of a field: 1, 2, 4 or 8.
    """

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in (1, 2, 4, 8):
            raise ValueError(f"fields of {self.bits} bits do not fill a byte")

    @property
    def name(self) -> str:
        """What the generated C calls the format."""
        return "vectors"

    @property
    def vectors_per_unit(self) -> int:
        """Vectors that share 16 bytes."""
        return 8 // self.bits

    def units(self, vectors: int) -> int:
        """Units that hold so many vectors."""
        return -(-vectors // self.vectors_per_unit)

    def pack(self, vectors: Bytes) -> Bytes:
        """Pack a stream of vectors.

        Args:
            vectors: (vectors, 16), each code below 2^bits.

        Returns:
            Bytes (units, 16); fields beyond the last vector are 0.

        Raises:
            ValueError: a code does not fit.
        """
        if vectors.size and int(vectors.max()) >> self.bits:
            raise ValueError(f"code {vectors.max()} does not fit {self.bits} bits")
        units = self.units(len(vectors))
        padded = np.zeros((units * self.vectors_per_unit, LANES), np.uint8)
        padded[: len(vectors)] = vectors
        shifts = (np.arange(self.vectors_per_unit) * self.bits).astype(np.uint8)
        fields = padded.reshape(units, self.vectors_per_unit, LANES) << shifts[:, np.newaxis]
        packed: Bytes = np.bitwise_or.reduce(fields, axis=1).astype(np.uint8)
        return packed

    def unpack(self, packed: Bytes, vectors: int) -> Bytes:
        """The first `vectors` vectors (vectors, 16) of units (units, 16)."""
        shifts = (np.arange(self.vectors_per_unit) * self.bits).astype(np.uint8)
        fields = packed[:, np.newaxis, :] >> shifts[:, np.newaxis] & np.uint8((1 << self.bits) - 1)
        return fields.reshape(-1, LANES)[:vectors]

    def comment(self) -> str:
        """What a C comment says about the format."""
        if self.bits == 8:
            return "vectors of 16 levels, one after the other."
        return (
            f"units of 16 bytes that hold {self.vectors_per_unit} vectors of 16 codes. Bits "
            f"{self.bits}*i to {self.bits}*i + {self.bits - 1} of byte k are lane k of vector i."
        )


def first_taps(taps: int) -> int:
    """Taps in the first vector of a row, 1 to 16; all vectors after it are full.

    A kernel reads the first vector under a predicate, so that it never reads beyond a window.
    """
    return (taps - 1) % LANES + 1


def tap_vectors(taps: int) -> int:
    """Vectors of a row of taps."""
    return -(-taps // LANES)


def quad_vectors(rows: Bytes) -> Bytes:
    """The vectors of rows that are computed four at a time.

    Args:
        rows: codes (rows, taps), rows a multiple of 4.

    Returns:
        (rows / 4, vectors of a quad, 16): for each vector of taps, those of the four rows. The first
        vector of taps is padded behind its `first_taps` with code 0.
    """
    out, taps = rows.shape
    vectors, first = tap_vectors(taps), first_taps(taps)
    padded = np.zeros((out, vectors * LANES), np.uint8)
    padded[:, :first] = rows[:, :first]
    padded[:, LANES:] = rows[:, first:]
    quads = padded.reshape(out // QUAD, QUAD, vectors, LANES).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(quads.reshape(out // QUAD, vectors * QUAD, LANES))


def channel_vectors(rows: Bytes) -> Bytes:
    """The vectors of depthwise weights: 16 channels share a vector, one vector per tap.

    Args:
        rows: codes (channels, taps).

    Returns:
        (blocks of 16 channels * taps, 16); channels beyond the last have code 0.
    """
    channels, taps = rows.shape
    blocks = -(-channels // LANES)
    padded = np.zeros((blocks * LANES, taps), np.uint8)
    padded[:channels] = rows
    return np.ascontiguousarray(padded.reshape(blocks, LANES, taps).transpose(0, 2, 1).reshape(-1, LANES))

"""Weight alphabets: the integers a quantized weight may take, and their codes in flash.

Every alphabet is an arithmetic progression ``w = step * u + offset`` with an unsigned code
``u = 0 .. levels - 1``. Kernels multiply activations by ``u`` and correct the result with one sum
of activations, so one kernel serves every alphabet of the same width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from deployq.errors import UsageError

Real = TypeVar("Real", np.float32, np.float64)

FAMILIES = ("binary", "ternary", "midrise", "midtread", "symmetric")
_NAMED = re.compile(r"(midrise|midtread|symmetric)-([1-8])")


@dataclass(frozen=True)
class Alphabet:
    """Equispaced integer levels w = step * u + offset.

    Attributes:
        name: "binary", "ternary", "midrise-2", "midtread-4", "symmetric-8", ...
        bits: bits of one code in flash.
        levels: number of levels, at most 2^bits.
        step: distance of two neighbouring levels (1 or 2).
        offset: the lowest level.
    """

    name: str
    bits: int
    levels: int
    step: int
    offset: int

    @property
    def values(self) -> npt.NDArray[np.int16]:
        """All levels, ascending, shape (levels,)."""
        return (np.arange(self.levels) * self.step + self.offset).astype(np.int16)

    @property
    def largest(self) -> int:
        """Largest absolute level."""
        return max(abs(self.offset), abs(self.offset + self.step * (self.levels - 1)))

    @property
    def neutral_code(self) -> int:
        """Code of the level nearest to zero, used for padding."""
        return int(np.argmin(np.abs(self.values)))

    def encode(self, values: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Integer levels to unsigned codes of the same shape.

        Raises:
            ValueError: a value is not a level of this alphabet.
        """
        codes, remainder = np.divmod(values.astype(np.int64) - self.offset, self.step)
        if np.any(remainder) or np.any(codes < 0) or np.any(codes >= self.levels):
            raise ValueError(f"values outside the alphabet {self.name}")
        return codes.astype(np.uint8)

    def decode(self, codes: npt.NDArray[np.integer]) -> npt.NDArray[np.int16]:
        """Unsigned codes to integer levels of the same shape."""
        return (codes.astype(np.int64) * self.step + self.offset).astype(np.int16)

    def nearest(self, value: npt.NDArray[Real]) -> npt.NDArray[Real]:
        """Level nearest to each real value (in units of the scale), ties upwards; same shape and dtype."""
        code = np.floor((value - self.offset) / self.step + 0.5)
        np.clip(code, 0, self.levels - 1, out=code)
        return np.asarray(code * self.step + self.offset, dtype=value.dtype)


def alphabet(name: str) -> Alphabet:
    """The alphabet of a name such as "binary", "ternary", "midrise-2" or "symmetric-8".

    Raises:
        UsageError: there is no alphabet of that name.
    """
    if name == "binary":
        return Alphabet(name, bits=1, levels=2, step=2, offset=-1)
    if name == "ternary":
        return Alphabet(name, bits=2, levels=3, step=1, offset=-1)
    match = _NAMED.fullmatch(name)
    if match:
        family, bits = match[1], int(match[2])
        if family == "midrise":
            return Alphabet(name, bits, levels=2**bits, step=2, offset=-(2**bits - 1))
        if family == "midtread" and bits >= 2:
            return Alphabet(name, bits, levels=2**bits, step=1, offset=-(2 ** (bits - 1)))
        if family == "symmetric" and bits >= 2:
            return Alphabet(name, bits, levels=2**bits - 1, step=1, offset=-(2 ** (bits - 1) - 1))
    raise UsageError(
        f"unknown alphabet {name!r}",
        hint="binary, ternary, midrise-1..8, midtread-2..8 or symmetric-2..8, e.g. midrise-2",
    )


def default_alphabet(bits: str) -> Alphabet:
    """The alphabet deployq uses for a width given as "1".."8" or "ternary".

    Two to four bits are mid-rise, the alphabets of 2010.15979 (on ResNet-8 about two points better
    than -2..1; at three and four bits a KL divergence of 0.049 and 0.015 against 0.060 and 0.017 of the
    mid-tread ones); eight are symmetric, so that a weight and its negative are both levels.

    Raises:
        UsageError: the width is none of these.
    """
    names = {"1": "binary", "binary": "binary", "ternary": "ternary", "8": "symmetric-8"}
    names |= {str(bits): f"{'midrise' if bits <= 4 else 'midtread'}-{bits}" for bits in range(2, 8)}
    if bits not in names:
        raise UsageError(
            f"unknown weight width {bits!r}", where="--bits", hint="1 to 8, binary, ternary or auto"
        )
    return alphabet(names[bits])

"""The alphabet for levels that were found without one."""

from __future__ import annotations

import math

from deployq.alphabet import Alphabet, alphabet
from deployq.arithmetic import FloatArray
from deployq.errors import ModelError

#: The widest there is.
_MOST_BITS = 8

_NAMES = (
    "binary",
    "ternary",
    *(
        f"{family}-{bits}"
        for bits in range(2, _MOST_BITS + 1)
        for family in ("midrise", "symmetric", "midtread")
    ),
)


def widened(letters: Alphabet, levels: FloatArray) -> Alphabet:
    """The smallest alphabet with the step of another one that has all levels; it may be smaller, too.

    Args:
        letters: whose progression the levels follow, beyond its ends.
        levels: any shape, not empty.

    Raises:
        ModelError: they need more than 8 bits.
    """
    low, high = int(levels.min()), int(levels.max())
    for name in _NAMES:
        found = alphabet(name)
        if found.step == letters.step and found.values[0] <= low and high <= found.values[-1]:
            return found
    reach = max(-low + letters.step - 1, high + 1) / letters.step
    raise ModelError(
        f"the levels found without clipping need {1 + math.ceil(math.log2(reach))} bits",
        where="--spfq-alphabet infinite",
        why=f"they reach from {low} to {high}, and {_MOST_BITS} bits are the most there are",
        hint="--spfq-alphabet finite clips them",
    )

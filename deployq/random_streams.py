"""Random numbers: every use draws from a stream of its own, whatever the seed."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, unique

import numpy as np

_WORD_BITS = 32
_WORDS_PER_NUMBER = 2


@unique
class Purpose(IntEnum):
    """What random numbers are for; the values are part of what a seed means and must not change."""

    CALIBRATION_DRAW = 1
    POSITIONS = 2
    STOCHASTIC_ROUNDING = 3
    AUGMENTED_COPIES = 4
    TUNING_SPLIT = 5
    TUNING_STEPS = 6
    TUNING_JUDGES = 7


def stream(purpose: Purpose, seed: int, *indices: int) -> np.random.Generator:
    """The generator of a purpose, independent of those of all other arguments.

    numpy pads a short seed with zeros, and splits large numbers into words of 32 bits: to
    `default_rng`, [1], [1, 0] and [1, 0, 0] are the same, as are [2**32] and [0, 1]. Here the number of
    arguments comes before them, and each takes two words.

    Args:
        purpose: what the numbers are for.
        seed: of the user, 0 to 2^64 - 1.
        indices: where the numbers are used, e.g. layer and chunk; in the same range.

    Raises:
        ValueError: a number is out of range.
    """
    numbers = (seed, *indices)
    return np.random.default_rng([int(purpose), len(numbers), *_words(numbers)])


def _words(numbers: Iterable[int]) -> list[int]:
    """Two words of 32 bits for each number, the lower one first."""
    words = []
    for number in numbers:
        if not 0 <= number < 2 ** (_WORD_BITS * _WORDS_PER_NUMBER):
            raise ValueError(f"{number} cannot be a seed or an index of a random stream")
        words += [number % 2**_WORD_BITS, number >> _WORD_BITS]
    return words

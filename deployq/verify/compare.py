"""Byte-for-byte comparison, and the place of the first difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int8Array = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Difference:
    """First differing value of a layer.

    Attributes:
        sample: index of the sample.
        layer: name of the layer, "" where only the network's output was compared.
        element: flat index within the layer's output, in the order the executors were compared in.
        expected: value of the Python reference.
        found: value of the other executor.
    """

    sample: int
    layer: str
    element: int
    expected: int
    found: int

    def __str__(self) -> str:
        place = f"layer {self.layer!r}, " if self.layer else ""
        return (
            f"sample {self.sample}, {place}element {self.element}: "
            f"reference {self.expected}, found {self.found}"
        )


def count_mismatches(expected: Int8Array, found: Int8Array) -> int:
    """Number of differing bytes; all of them if the shapes differ in size."""
    if expected.size != found.size:
        return max(expected.size, found.size)
    return int(np.count_nonzero(expected.reshape(-1) != found.reshape(-1)))


def first_difference(
    layers: Sequence[str], expected: Sequence[Int8Array], found: Sequence[Int8Array]
) -> Difference | None:
    """The first difference in layer order.

    Args:
        layers: names.
        expected: reference output of each layer (n, ...), flattened per sample before comparing.
        found: the other executor's, in the same element order.
    """
    for name, reference, other in zip(layers, expected, found, strict=True):
        left, right = reference.reshape(len(reference), -1), other.reshape(len(other), -1)
        places = np.argwhere(left != right)
        if len(places):
            sample, element = (int(index) for index in places[0])
            return Difference(sample, name, element, int(left[sample, element]), int(right[sample, element]))
    return None

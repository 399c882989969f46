"""Test vectors kept beside the generated library, for `deployq verify` and for tests on a board."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deployq.array_files import read_member

Int8Array = npt.NDArray[np.int8]

FILE = "vectors.npz"


def save_vectors(directory: Path, samples: Int8Array, expected: Int8Array) -> None:
    """Write int8 inputs and the reference's outputs, both (n, ...) in NCHW order."""
    np.savez_compressed(directory / FILE, samples=samples, expected=expected)


def load_vectors(directory: Path) -> tuple[Int8Array, Int8Array]:
    """Samples and expected outputs of an output directory, as they were stored.

    Raises:
        Exception: those of `deployq.array_files.DAMAGED`, where the file is missing or damaged.
    """
    with zipfile.ZipFile(directory / FILE) as archive:
        return read_member(archive, "samples"), read_member(archive, "expected")

"""Activations of all calibration samples between two layers, in memory or, past a budget, on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class ActivationStore:
    """Chunks of named tensors. Memory stays below a budget whatever the number of samples."""

    def __init__(self, directory: Path, budget_bytes: int) -> None:
        self._directory = directory
        self._budget = budget_bytes
        self._chunks: dict[tuple[str, int], Array | Path] = {}
        self._files = 0

    def put(self, tensor: str, chunk: int, value: Array) -> None:
        """Keep a chunk, in memory if it still fits."""
        if value.nbytes <= self._budget:
            self._budget -= value.nbytes
            self._chunks[tensor, chunk] = value
            return
        path = self._directory / f"{self._files}.npy"
        self._files += 1
        np.save(path, value, allow_pickle=False)
        self._chunks[tensor, chunk] = path

    def get(self, tensor: str, chunk: int) -> Array:
        """A chunk that was put before."""
        value = self._chunks[tensor, chunk]
        return np.load(value, allow_pickle=False) if isinstance(value, Path) else value

    def drop(self, tensor: str) -> None:
        """Forget all chunks of a tensor."""
        for key in [key for key in self._chunks if key[0] == tensor]:
            value = self._chunks.pop(key)
            if isinstance(value, Path):
                value.unlink()
            else:
                self._budget += value.nbytes


@contextmanager
def activation_store(budget_bytes: int = 2**30) -> Iterator[ActivationStore]:
    """A store whose files are removed at the end."""
    with TemporaryDirectory(prefix="deployq-") as directory:
        yield ActivationStore(Path(directory), budget_bytes)

"""torch in a state in which the same computation gives the same bits, on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic as _deterministic

#: Its one attribute is installed by a class of its own, which type checkers cannot see.
deterministic: Any = _deterministic

#: Threads while tuning. A constant, as the order of additions depends on it.
THREADS = 1


@contextmanager
def repeatable() -> Iterator[None]:
    """Deterministic algorithms, a fixed number of threads, gradients enabled; everything is restored."""
    threads = torch.get_num_threads()
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = deterministic.fill_uninitialized_memory
    try:
        torch.set_num_threads(THREADS)
        torch.use_deterministic_algorithms(True)
        # Filling every new buffer with NaN finds reads of uninitialised memory, at half the speed.
        deterministic.fill_uninitialized_memory = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        deterministic.fill_uninitialized_memory = fills

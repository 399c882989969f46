"""The common interface of the quantizers, and how they are found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.errors import UsageError
from deployq.quantizers.statistics import LayerStatistics

#: (statistics, weights (groups, N, C), alphabet, scales (groups, K * C)) -> levels (groups, N, K * C).
#: A solver quantizes every neuron with K candidate scales at once: column j of the scales and of the
#: result belongs to neuron j mod C, so work that does not depend on the scale is done once. The
#: scales are positive. The levels are values of the alphabet, in float64 for the products that follow.
Solver = Callable[[LayerStatistics, FloatArray, Alphabet, FloatArray], FloatArray]

_METHODS: dict[str, Solver] = {}


def quantizer(name: str) -> Callable[[Solver], Solver]:
    """Register a solver under the name users pass to --method."""

    def register(solver: Solver) -> Solver:
        if name in _METHODS:
            raise ValueError(f"two quantizers are called {name!r}")
        _METHODS[name] = solver
        return solver

    return register


def method_names() -> tuple[str, ...]:
    """Names of all quantizers."""
    return tuple(sorted(_METHODS))


def method(name: str) -> Solver:
    """The quantizer of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in _METHODS:
        raise UsageError(f"unknown quantizer {name!r}", where="--method", hint=", ".join(method_names()))
    return _METHODS[name]


def in_scale_units(values: FloatArray, scales: FloatArray) -> FloatArray:
    """Values (groups, n, C) divided by every candidate scale (groups, K * C): (groups, n, K * C)."""
    candidates = scales.shape[1] // values.shape[2]
    return np.asarray(np.tile(values, (1, 1, candidates)) / scales[:, None, :])

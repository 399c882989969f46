"""The common interface of the quantizers, and how they are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.errors import UsageError
from deployq.quantizers.inputs import InputStatistics
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.statistics import LayerStatistics

Note = Callable[[str], None]


def silent(message: str) -> None:
    """The note function of callers who do not want any."""


@dataclass(frozen=True)
class Problem:
    """One layer to quantize.

    Attributes:
        statistics: of its inputs, centred or not.
        weights: real, (groups, N, C).
        alphabet: levels to choose from.
        options: of the quantizer.
        note: called with what the user should know, one sentence each.
    """

    statistics: InputStatistics
    weights: FloatArray
    alphabet: Alphabet
    options: SolverOptions = field(default_factory=SolverOptions)
    note: Note = silent

    @property
    def products(self) -> LayerStatistics:
        """The statistics of a method that needs the products of all inputs.

        Raises:
            ValueError: they are samples.
        """
        if not isinstance(self.statistics, LayerStatistics):
            raise ValueError("only the samples of this layer are known, not the products of its inputs")
        return self.statistics


#: scales (groups, K * C) -> levels (groups, N, K * C), in float64 for the products that follow.
#: Every neuron is quantized with K candidate scales at once: column j of the scales and of the levels
#: belongs to neuron j mod C. The scales are positive.
Solve = Callable[[FloatArray], FloatArray]

#: A quantizer does once what does not depend on the scale, and returns what does.
Solver = Callable[[Problem], Solve]

#: What a quantizer has to say about a problem with the levels (groups, N, C) and scales (groups, C) found.
Remark = Callable[[Problem, FloatArray, FloatArray], str]


@dataclass(frozen=True)
class Traits:
    """What sets a quantizer apart.

    Attributes:
        remark: made on every layer.
        on_samples: it takes `SampleStatistics`, too.
        unbounded: whether, with some options, its levels go beyond the ends of the alphabet.
    """

    remark: Remark | None = None
    on_samples: bool = False
    unbounded: Callable[[SolverOptions], bool] = lambda options: False


_METHODS: dict[str, tuple[Solver, Traits]] = {}


def quantizer(name: str, traits: Traits | None = None) -> Callable[[Solver], Solver]:
    """Register a solver under the name users pass to --method."""

    def register(solver: Solver) -> Solver:
        if name in _METHODS:
            raise ValueError(f"two quantizers are called {name!r}")
        _METHODS[name] = solver, traits or Traits()
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
    return _entry(name)[0]


def traits_of(name: str) -> Traits:
    """What sets the quantizer of a name apart.

    Raises:
        UsageError: there is none.
    """
    return _entry(name)[1]


def _entry(name: str) -> tuple[Solver, Traits]:
    if name not in _METHODS:
        raise UsageError(f"unknown quantizer {name!r}", where="--method", hint=", ".join(method_names()))
    return _METHODS[name]


def in_scale_units(values: FloatArray, scales: FloatArray) -> FloatArray:
    """Values (groups, n, C) divided by every candidate scale (groups, K * C): (groups, n, K * C)."""
    candidates = scales.shape[1] // values.shape[2]
    return np.asarray(np.tile(values, (1, 1, candidates)) / scales[:, None, :])

"""Drawn layers in batches: different ones, compiled together, compared with the reference.

A list of layers as one example of a test would not do: hypothesis begins with the simplest list, one
layer again and again, and gives up on long random ones.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from deployq.codegen.optimize import build_schedule
from deployq.graph import Graph
from deployq.targets import Target, load_target
from tests.codegen.emulated import Emulated, require_emulator, run_emulated
from tests.codegen.harness import SANITIZE, Network, run_program, write_program
from tests.integer_networks import samples

Example = TypeVar("Example")

#: Layers compiled into one program.
BATCH = 60

#: Different layers of every family of kernels that run in QEMU.
WANTED = 300


class Layer(Protocol):
    """What is drawn: something that makes an integer graph."""

    def graph(self) -> Graph:
        """The graph, with random parameters."""


@dataclass(frozen=True)
class Run:
    """A program of layers of a family.

    Attributes:
        target: core it runs on.
        flags: optimisation, and definitions for the generated C.
        count: of layers.
    """

    target: str
    flags: tuple[str, ...] = ("-O2",)
    count: int = BATCH


@dataclass(frozen=True)
class Family:
    """Kernels that share their code, and what is drawn for them.

    Attributes:
        name: of the family.
        functions: regular expression of their names, and of no others'.
        layers: to draw from; layers that other kernels compute are left out.
        runs: the programs.
        optimize: as in `EmitOptions`.
        io_layout: as in `EmitOptions`.
        preferred: where the family is chosen for every layer it applies to, others being faster or not.
    """

    name: str
    functions: str
    layers: st.SearchStrategy[Any]
    runs: tuple[Run, ...]
    optimize: str = "balanced"
    io_layout: str = "nhwc"
    preferred: Callable[[], AbstractContextManager[object]] = nullcontext

    def computes(self, functions: Sequence[str]) -> bool:
        """Whether one of a network's functions is of the family."""
        return any(re.fullmatch(self.functions, function) for function in functions)

    def drawn(self, core: Target, batch: int, count: int, without: Set[str] = frozenset()) -> list[Layer]:
        """Different layers the family computes.

        Args:
            core: it computes them on.
            batch: as in `drawn`.
            count: of layers.
            without: descriptions of layers that are not wanted again.
        """

        def wanted(layer: Layer) -> bool:
            if describe(layer) in without:
                return False
            steps = build_schedule(layer.graph(), core.features, self.io_layout, self.optimize).steps
            return self.computes([step.call.function for step in steps])

        return drawn(self.layers.filter(wanted), batch, count)

    def batches(self) -> Iterator[tuple[Run, list[Layer]]]:
        """The layers of every run, all different."""
        earlier: set[str] = set()
        for index, run in enumerate(self.runs):
            layers = self.drawn(load_target(run.target), index, run.count, earlier)
            earlier |= {describe(layer) for layer in layers}
            yield run, layers


def describe(layer: object) -> str:
    """A layer as text, without the seed of its weights: that alone makes no other layer."""
    return re.sub(r"\bseed=\d+", "", repr(layer))


class _EnoughError(Exception):
    """As many examples are found as are wanted."""


def drawn(strategy: st.SearchStrategy[Example], batch: int, count: int = BATCH) -> list[Example]:
    """`count` examples with different descriptions; the same for the same `batch`, others for another."""
    found: dict[str, Example] = {}

    @seed(batch)
    @settings(
        max_examples=20 * count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(example: Example) -> None:
        found.setdefault(describe(example), example)
        if len(found) >= count:
            raise _EnoughError

    run: Callable[[], None] = collect
    with suppress(_EnoughError):
        run()
    assert len(found) == count, f"only {len(found)} different examples"
    return list(found.values())


def networks(
    layers: Sequence[Layer], core: Target, io_layout: str = "nhwc", optimize: str = "balanced"
) -> list[Network]:
    """The layers as networks for a core, with four samples each."""
    graphs = [layer.graph() for layer in layers]
    rngs = [np.random.default_rng(3) for _ in graphs]
    return [
        Network(graph, samples(graph, 4, rng), core, io_layout, optimize)
        for graph, rng in zip(graphs, rngs, strict=True)
    ]


def check_on_host(layers: Sequence[Layer], core: Target, compiler: str) -> None:
    """Run the C forms under sanitizers; every layer must equal the reference."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    batch = networks(layers, core)
    with tempfile.TemporaryDirectory() as directory:
        write_program(batch, Path(directory))
        outputs = run_program(batch, Path(directory), compiler, SANITIZE)
    for layer, network, found in zip(layers, batch, outputs, strict=True):
        assert np.array_equal(network.expected(), found), layer


def check_on_core(layers: Sequence[Layer], target: str, flags: Sequence[str] = ("-O2",)) -> None:
    """Run in QEMU; every layer must equal the reference."""
    require_emulator()
    core = load_target(target)
    _emulated(layers, networks(layers, core), core, flags)


def check_family(family: Family) -> None:
    """Run the layers of a family in QEMU; all must differ, equal the reference, and be computed by it."""
    require_emulator()
    checked: set[str] = set()
    with family.preferred():
        for run, layers in family.batches():
            core = load_target(run.target)
            batch = networks(layers, core, family.io_layout, family.optimize)
            for layer, result in zip(layers, _emulated(layers, batch, core, run.flags), strict=True):
                assert family.computes(result.functions), layer
                checked.add(describe(layer))
    assert len(checked) >= WANTED


def _emulated(
    layers: Sequence[Layer], batch: Sequence[Network], core: Target, flags: Sequence[str]
) -> list[Emulated]:
    with tempfile.TemporaryDirectory() as directory:
        results = run_emulated(batch, core, Path(directory), flags)
    for layer, network, result in zip(layers, batch, results, strict=True):
        assert np.array_equal(network.expected(), result.outputs), layer
    return results

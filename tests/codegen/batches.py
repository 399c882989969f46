"""Drawn layers in batches: different ones, compiled together, compared with the reference.

A list of layers as one example of a test would not do: hypothesis begins with the simplest list, one
layer again and again, and gives up on long random ones.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from deployq.graph import Graph
from deployq.targets import Target, load_target
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.harness import SANITIZE, Network, run_program, write_program
from tests.integer_networks import samples

Example = TypeVar("Example")

#: Layers compiled into one program.
BATCH = 60


class Layer(Protocol):
    """What is drawn: something that makes an integer graph."""

    def graph(self) -> Graph:
        """The graph, with random parameters."""


def drawn(strategy: st.SearchStrategy[Example], batch: int, count: int = BATCH) -> list[Example]:
    """`count` examples, no two of which are equal; the same for the same `batch`, others for another."""
    found: dict[str, Example] = {}

    @seed(batch)
    @settings(
        max_examples=20 * count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(example: Example) -> None:
        if len(found) < count:
            found.setdefault(repr(example), example)

    run: Callable[[], None] = collect
    run()
    assert len(found) == count, f"only {len(found)} different examples"
    return list(found.values())


def networks(layers: Sequence[Layer], core: Target) -> list[Network]:
    """The layers as networks for a core, with four samples each."""
    graphs = [layer.graph() for layer in layers]
    return [Network(graph, samples(graph, 4, np.random.default_rng(3)), core) for graph in graphs]


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
    batch = networks(layers, core)
    with tempfile.TemporaryDirectory() as directory:
        results = run_emulated(batch, core, Path(directory), flags)
    for layer, network, result in zip(layers, batch, results, strict=True):
        assert np.array_equal(network.expected(), result.outputs), layer

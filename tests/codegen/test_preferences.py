"""Drawn layers whose kernels another --optimize than the default one changes."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from deployq.codegen.kernels import OPTIMIZE
from deployq.codegen.optimize import build_schedule
from deployq.graph import Graph
from deployq.targets import load_target
from tests.codegen.batches import Layer, drawn, networks
from tests.codegen.depthwise_layers import depthwise_layers
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.fields_conv2d_layers import fields_layers
from tests.codegen.harness import SANITIZE, Network, run_program, write_program
from tests.codegen.linear_layers import linear_layers
from tests.integer_networks import ALPHABETS

_DEFAULT, *_OTHERS = OPTIMIZE

#: What is drawn, and how many of each.
_KINDS: tuple[st.SearchStrategy[Any], ...] = (
    fields_layers([letters.name for letters in ALPHABETS]),
    linear_layers(),
    depthwise_layers(),
)
_DRAWN = 24

#: Layers of each preference that are run.
_RUN = 6

#: Of how many of the drawn layers each preference changes the kernel, at least. Armv6-M has no kernel that is
#: faster for more flash or memory, but layers for which a smaller one is taken otherwise.
_CHANGED = {
    "cortex-m0plus": {"speed": 0, "ram": 10, "flash": 10},
    "cortex-m3": {"speed": 1, "ram": 10, "flash": 10},
    "cortex-m4": {"speed": 5, "ram": 10, "flash": 10},
    "cortex-m55": {"speed": 1, "ram": 10, "flash": 10},
}


@cache
def _layers() -> tuple[Layer, ...]:
    """Layers of all kinds in turn."""
    kinds = [drawn(kind, 200 + index, _DRAWN) for index, kind in enumerate(_KINDS)]
    return tuple(layer for together in zip(*kinds, strict=True) for layer in together)


@cache
def _graphs() -> tuple[Graph, ...]:
    return tuple(layer.graph() for layer in _layers())


@cache
def _kernels(target: str, optimize: str) -> tuple[str, ...]:
    """The kernels of every layer, and how they are set up."""
    features = load_target(target).features
    schedules = [build_schedule(graph, features, "nhwc", optimize) for graph in _graphs()]
    return tuple(
        repr([(step.call.function, step.call.parameters, step.call.scratch_bytes) for step in schedule.steps])
        for schedule in schedules
    )


def _changed(target: str, optimize: str) -> list[Layer]:
    """Layers for which a preference chooses, or sets up, a kernel otherwise than the default one."""
    usual, other = _kernels(target, _DEFAULT), _kernels(target, optimize)
    return [layer for layer, a, b in zip(_layers(), usual, other, strict=True) if a != b]


def _networks(target: str) -> list[Network]:
    """For every preference layers it changes, or any where it changes none."""
    core, batch = load_target(target), []
    for optimize in _OTHERS:
        layers = _changed(target, optimize) or list(_layers())
        batch += networks(layers[:_RUN], core, optimize=optimize)
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("target", _CHANGED)
def test_preferences_change_kernels(target: str) -> None:
    found = {optimize: len(_changed(target, optimize)) for optimize in _OTHERS}
    assert all(found[optimize] >= count for optimize, count in _CHANGED[target].items()), found


@pytest.mark.slow
@pytest.mark.parametrize("target", _CHANGED)
def test_their_kernels_are_exact_on_the_host(target: str, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    batch = _networks(target)
    write_program(batch, tmp_path)
    for network, found in zip(batch, run_program(batch, tmp_path, "gcc", SANITIZE), strict=True):
        assert np.array_equal(network.expected(), found), (network.optimize, network.graph)


@pytest.mark.qemu
@pytest.mark.parametrize("target", _CHANGED)
def test_their_kernels_are_exact_on_the_core(target: str, tmp_path: Path) -> None:
    require_emulator()
    batch = _networks(target)
    for network, result in zip(batch, run_emulated(batch, load_target(target), tmp_path), strict=True):
        assert np.array_equal(network.expected(), result.outputs), (network.optimize, network.graph)

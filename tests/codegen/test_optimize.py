"""What --optimize changes, and that every choice is exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import Alphabet, alphabet
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, GeneratedLibrary
from deployq.codegen.kernels import OPTIMIZE
from deployq.codegen.packing.gaps import GapFormat
from deployq.errors import UsageError
from deployq.graph import Graph
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.reshape import Reshape
from deployq.ops.window import Window
from deployq.targets import Target, load_target
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.harness import DSP, SANITIZE, Network, run_program, write_program
from tests.codegen.sparse_networks import linear_graph, random_levels
from tests.integer_networks import NetworkBuilder, mobile_network, residual_network, samples


def _network(letters: str) -> Graph:
    """A wide fully connected layer after a convolution and a depthwise one."""
    builder = NetworkBuilder(np.random.default_rng(3), alphabet(letters), (8, 24, 24), -128)
    around = Window((3, 3), (1, 1), (1, 1, 1, 1))
    first = builder.add(Conv2d(np.zeros((16, 8, 3, 3), np.float32), np.zeros(16), around), "x")
    deep = builder.add(Conv2d(np.zeros((16, 1, 3, 3), np.float32), np.zeros(16), around, groups=16), first)
    flat = builder.add(Conv2d(np.zeros((2, 16, 1, 1), np.float32), np.zeros(2), Window((1, 1), (2, 2))), deep)
    size = builder.tensors[flat].size
    vector = builder.add(Reshape((size,)), flat)
    return builder.graph(builder.add(Linear(np.zeros((12, size), np.float32), np.zeros(12)), vector))


def _library(graph: Graph, optimize: str, target: Target = DSP) -> GeneratedLibrary:
    return generate(graph, target, EmitOptions(optimize=optimize))


def test_speed_takes_flash_for_codes_that_fit_no_field() -> None:
    bytes_of = {
        (letters, optimize): _library(_network(letters), optimize).weights_bytes
        for letters in ("midtread-6", "midtread-7")
        for optimize in OPTIMIZE
    }
    assert bytes_of["midtread-6", "speed"] > 1.2 * bytes_of["midtread-6", "balanced"]
    # Codes without gaps either way, but for words that are filled up.
    assert bytes_of["midtread-6", "balanced"] < 1.02 * bytes_of["midtread-6", "flash"]
    assert bytes_of["midtread-7", "flash"] < bytes_of["midtread-7", "balanced"]


def test_speed_expands_wide_inputs_in_advance() -> None:
    functions = {
        optimize: [layer.function for layer in _library(_network("midrise-2"), optimize).layers]
        for optimize in OPTIMIZE
    }
    assert not any(name.endswith("_wide") for name in functions["speed"])
    assert all(any(name.endswith("_wide") for name in functions[other]) for other in ("balanced", "ram"))


_RandomNetwork = Callable[[np.random.Generator, Alphabet], Graph]


@pytest.mark.parametrize("features", [("dsp",), ("dsp", "mve"), ("armv7m",), ("armv6m",)], ids=str)
@pytest.mark.parametrize("make", [residual_network, mobile_network])
def test_ram_never_takes_a_larger_arena(make: _RandomNetwork, features: tuple[str, ...]) -> None:
    target = Target("core", "", "host", "", (), frozenset(features), 4, ())
    graph = make(np.random.default_rng(2), alphabet("midrise-2"))
    arenas = {optimize: _library(graph, optimize, target).arena_bytes for optimize in OPTIMIZE}
    assert arenas["ram"] <= min(arenas["balanced"], arenas["speed"])


@pytest.mark.parametrize("features", [("dsp",), ("dsp", "mve"), ("armv7m",), ("armv6m",)], ids=str)
def test_ram_runs_large_layers_depth_first(features: tuple[str, ...]) -> None:
    target = Target("core", "", "host", "", (), frozenset(features), 4, ())
    builder = NetworkBuilder(np.random.default_rng(3), alphabet("midrise-2"), (3, 48, 48), -128)
    around = Window((3, 3), (1, 1), (1, 1, 1, 1))
    first = builder.add(Conv2d(np.zeros((16, 3, 3, 3), np.float32), np.zeros(16), around), "x")
    deep = builder.add(Conv2d(np.zeros((16, 1, 3, 3), np.float32), np.zeros(16), around, groups=16), first)
    halved = Window((1, 1), (2, 2))
    graph = builder.graph(builder.add(Conv2d(np.zeros((8, 16, 1, 1), np.float32), np.zeros(8), halved), deep))
    balanced, ram = (_library(graph, optimize, target) for optimize in ("balanced", "ram"))
    assert ram.arena_bytes < 0.3 * balanced.arena_bytes
    assert [layer.stripes > 1 for layer in ram.layers] == [True] * 3
    assert [layer.stripes for layer in balanced.layers] == [1] * 3


def test_ram_keeps_fast_kernels_that_cost_none() -> None:
    layers = [_library(_network("midrise-2"), optimize).layers for optimize in ("balanced", "ram", "flash")]
    balanced, ram, flash = ([layer.function for layer in each] for each in layers)
    assert ram != flash and set(ram) & set(balanced) - set(flash)


def test_flash_stores_sparse_weights_as_lists() -> None:
    graph = linear_graph(random_levels(100, 800, 0.35))
    dense, listed = (_library(graph, optimize) for optimize in ("balanced", "flash"))
    assert [layer.function for layer in listed.layers] == ["dq_linear_gaps4_a8"]
    assert GapFormat(4).pack(random_levels(100, 800, 0.35)).data.nbytes < 100 * 200
    assert listed.weights_bytes < dense.weights_bytes


def test_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot optimize 'size'"):
        EmitOptions(optimize="size")


def _networks(target: Target) -> list[Network]:
    graphs = [_network(letters) for letters in ("midrise-2", "midtread-3", "midtread-6", "midtread-7")]
    return [
        Network(graph, samples(graph, 3, np.random.default_rng(1)), target, optimize=optimize)
        for graph in graphs
        for optimize in OPTIMIZE
    ]


@pytest.mark.slow
def test_every_choice_is_exact_on_the_host(tmp_path: Path) -> None:
    networks = _networks(DSP)
    write_program(networks, tmp_path)
    for network, found in zip(networks, run_program(networks, tmp_path, "gcc", SANITIZE), strict=True):
        assert np.array_equal(network.expected(), found), network.optimize


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m3", "cortex-m55"])
def test_every_choice_is_exact_on_the_cores(target: str, tmp_path: Path) -> None:
    require_emulator()
    core = load_target(target)
    networks = _networks(core)
    for network, result in zip(networks, run_emulated(networks, core, tmp_path), strict=True):
        assert np.array_equal(network.expected(), result.outputs), network.optimize

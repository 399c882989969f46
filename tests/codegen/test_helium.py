"""The Helium kernels against the reference: on the host under sanitizers, and in QEMU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.arena import plan_arena
from deployq.codegen.kernels import helium_depthwise
from deployq.codegen.optimize import build_schedule
from deployq.graph import Graph
from deployq.ops.conv2d import Conv2d
from deployq.ops.window import Window
from deployq.targets import load_target
from tests.codegen.batches import check_on_host
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.families import FAMILIES
from tests.codegen.harness import HELIUM, Network, run_program, write_program
from tests.integer_networks import NETWORKS, NetworkBuilder, samples


def _networks(graphs: Sequence[Graph], target: str = "") -> list[Network]:
    core = load_target(target) if target else HELIUM
    return [Network(graph, samples(graph, 4, np.random.default_rng(3)), core) for graph in graphs]


def _functions(graph: Graph) -> list[str]:
    return [step.call.function for step in build_schedule(graph, HELIUM.features, "nhwc").steps]


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler"), [(0, "gcc"), (1, "gcc"), (2, "clang")])
def test_layers_are_exact_on_the_host(batch: int, compiler: str) -> None:
    families = [family for family in FAMILIES if family.name.startswith("Helium")]
    assert len(families) == 6
    layers = [layer for family in families for layer in family.drawn(HELIUM, batch, 12)]
    check_on_host(layers, HELIUM, compiler)


@pytest.mark.qemu
def test_whole_networks_are_exact_on_the_core(tmp_path: Path) -> None:
    require_emulator()
    graphs = [
        make(np.random.default_rng(1), alphabet(letters))
        for make in NETWORKS
        for letters in ("binary", "midrise-2", "midtread-4", "symmetric-8", "midrise-8")
    ]
    networks = _networks(graphs, "cortex-m55")
    results = run_emulated(networks, load_target("cortex-m55"), tmp_path)
    for network, result in zip(networks, results, strict=True):
        assert np.array_equal(network.expected(), result.outputs), network.graph.name


def _depthwise(letters: str, stride: int = 1, extreme: str = "") -> Graph:
    """A 3x3 depthwise layer whose tensors lie in the arena, on activations of any int8 value."""
    builder = NetworkBuilder(np.random.default_rng(1), alphabet(letters), (16, 8, 8), 0)
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1))
    weight = np.zeros((16, 1, 3, 3), np.float32)
    first = builder.add(Conv2d(weight, np.zeros(16), window, 16), "x", extreme=extreme)
    second = Conv2d(weight, np.zeros(16), Window((3, 3), (1, 1), (1, 1, 1, 1)), 16)
    return builder.graph(builder.add(second, builder.add(second, first, extreme=extreme), extreme=extreme))


@pytest.mark.parametrize(
    ("letters", "extreme", "chunk"),
    [("midrise-2", "", 9), ("midrise-4", "high", 9), ("symmetric-8", "high", 2), ("midtread-8", "low", 1)],
)
def test_sums_of_16_bits_are_as_long_as_proven(letters: str, extreme: str, chunk: int) -> None:
    suffix = "3x3" if chunk == 9 else f"3x3_chunk{chunk}"
    bits = alphabet(letters).bits
    assert set(_functions(_depthwise(letters, extreme=extreme))) == {f"dq_depthwise2d_w{bits}a8_mve_{suffix}"}


def test_one_tap_more_than_proven_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    networks = _networks([_depthwise("symmetric-8", extreme="high")])
    outputs = []
    for chunk in (2, 3):
        monkeypatch.setattr(helium_depthwise, "_chunk", lambda layer, chunk=chunk: chunk)
        directory = tmp_path / str(chunk)
        directory.mkdir()
        write_program(networks, directory)
        outputs.append(run_program(networks, directory, "gcc", ["-O1"])[0])
    assert np.array_equal(networks[0].expected(), outputs[0])
    assert not np.array_equal(networks[0].expected(), outputs[1])


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_layer_overwrites_its_input(stride: int) -> None:
    schedule = build_schedule(_depthwise("midrise-2", stride), HELIUM.features, "nhwc")
    arena = plan_arena(schedule, 16)
    step = schedule.steps[1]
    assert arena.buffers[step.output] == arena.buffers[step.inputs[0]]

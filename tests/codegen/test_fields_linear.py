"""Fully connected kernels with several outputs in a word, in C and in assembly, against the operator."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.kernels import fields_linear
from deployq.codegen.kernels.fields_layer import pair_code
from deployq.codegen.kernels.fields_linear import longest_runs
from deployq.codegen.packing.fields import byte_pairs, field_format, nested, pairs
from deployq.codegen.schedule import build_schedule
from deployq.graph import Graph
from deployq.ops import Case
from deployq.ops.linear import IntegerLinear, Linear
from deployq.ops.output_stage import Bounds
from deployq.targets import Target, load_target
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.harness import DSP, SANITIZE, Network, run_program, write_program
from tests.integer_networks import NetworkBuilder, samples, single_node

_ALPHABETS = (
    "binary",
    "ternary",
    "midrise-2",
    "midtread-2",
    "midrise-4",
    "midtread-4",
    "symmetric-8",
    "midtread-8",
    "midrise-8",
)

_INPUTS = (1, 2, 3, 7, 8, 9, 16, 23, 31, 40, 64, 77, 128, 200, 257, 264, 264, 320, 320, 400, 400, 640)
_OUTPUTS = (1, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 33)
_STAGES = ("all", "all", "all", "relu", "channels")


def _bounds(stage: str, outputs: int, rng: np.random.Generator) -> Bounds:
    """Clamps: none, ReLU, or bounds of their own for every output."""
    if stage == "channels":
        return Bounds(rng.uniform(-1, -0.1, outputs), rng.uniform(0.1, 1, outputs))
    return Bounds(np.array(0.0), np.array(np.inf)) if stage == "relu" else Bounds.none()


def _layer(inputs: int, outputs: int, bounds: Bounds) -> Linear:
    return Linear(np.zeros((outputs, inputs), np.float32), np.zeros(outputs), bounds)


def _drawn(seed: int, count: int, target: Target) -> Iterator[Network]:
    """Layers with drawn shapes, alphabets, zero points, clamps, shifts, extremes; some after another."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        letters = alphabet(_ALPHABETS[(index + seed) % len(_ALPHABETS)])
        inputs, outputs = int(rng.choice(_INPUTS)), int(rng.choice(_OUTPUTS))
        bounds = _bounds(str(rng.choice(_STAGES)), outputs, rng)
        zero_point = (None, -128, 127, None)[int(rng.integers(4))]
        extreme = ("", "", "low", "high")[int(rng.integers(4))]
        if index % 5 == 0:
            builder = NetworkBuilder(rng, letters, (int(rng.choice(_OUTPUTS)),), zero_point)
            first = builder.linear("x", inputs)
            graph = builder.graph(builder.add(_layer(inputs, outputs, bounds), first, extreme=extreme))
        else:
            case = Case("layer", _layer(inputs, outputs, bounds), ((inputs,),))
            graph = single_node(case, letters, rng, zero_point, extreme)
        if rng.integers(3) == 0:
            graph = _shifted(graph, 3)
        yield Network(graph, samples(graph, 5, rng), target)


def _shifted(graph: Graph, shift: int) -> Graph:
    """The last layer with a larger shift and about the same ratio."""
    node = graph.nodes[-1]
    assert isinstance(node.op, IntegerLinear)
    stage = node.op.accumulation.stage
    moved = replace(stage, shift=stage.shift + shift, multiplier=np.maximum(stage.multiplier >> shift, 1))
    op = IntegerLinear(replace(node.op.accumulation, stage=moved))
    return graph.with_nodes((*graph.nodes[:-1], replace(node, op=op)), output=graph.output)


def _functions(networks: list[Network]) -> list[str]:
    """The last kernel of every network."""
    return [
        build_schedule(network.graph, network.target.features, network.io_layout).steps[-1].call.function
        for network in networks
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "seed"), [("gcc", 0), ("gcc", 1), ("clang", 2)])
def test_c_form_equals_the_operator(compiler: str, seed: int, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    networks = list(_drawn(seed, 64, DSP))
    write_program(networks, tmp_path)
    outputs = run_program(networks, tmp_path, compiler, SANITIZE)
    wrong = [
        function
        for function, network, found in zip(_functions(networks), networks, outputs, strict=True)
        if not np.array_equal(network.expected(), found)
    ]
    assert not wrong


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("target", "flags", "seed"),
    [("cortex-m4", "", seed) for seed in range(4)]
    + [("cortex-m4", "-DDQ_NO_ASM", 4), ("cortex-m7", "", 5), ("cortex-m33", "", 6)],
)
def test_both_forms_equal_the_operator_on_the_core(
    target: str, flags: str, seed: int, tmp_path: Path
) -> None:
    require_emulator()
    networks = list(_drawn(seed, 64, load_target(target)))
    results = run_emulated(networks, load_target(target), tmp_path, ("-O2", *flags.split()))
    wrong = [
        function
        for function, network, result in zip(_functions(networks), networks, results, strict=True)
        if not np.array_equal(network.expected(), result.outputs)
    ]
    assert not wrong


def test_the_drawn_layers_reach_every_variant() -> None:
    drawn = [network for seed in range(5) for network in _drawn(seed, 64, DSP)]
    names = {name for name in _functions(drawn) if "fields" in name}
    assert names == {
        f"dq_linear_w{width}a8_fields{stage}{wide}"
        for width in ("1", "2", "4", "8")
        for odd in (("",) if width == "1" else ("", "_odd"))
        for stage in (odd, f"{odd}_shifted", f"{odd}_clamped")
        for wide in ("", "_wide")
    }


@pytest.mark.parametrize(
    ("name", "level", "blocks"),
    [("midtread-2", -2, 3), ("midtread-2", 1, 8), ("binary", -1, 15), ("binary", 1, 16)],
)
def test_a_run_ends_before_its_field_overflows(name: str, level: int, blocks: int) -> None:
    code = pair_code(alphabet(name))
    assert code is not None
    levels = np.full((4, 8 * 20), level, dtype=np.int64)
    runs = longest_runs(code, levels)
    assert runs is not None and runs[0] == blocks and sum(runs) == 20


@pytest.mark.parametrize(("name", "inputs"), [("midtread-2", 32), ("binary", 128)])
def test_a_longer_run_than_the_proven_one_fails(
    name: str, inputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights are the lowest and all activations -128, which the proof has in mind."""
    rng = np.random.default_rng(1)
    graph = single_node(
        Case("layer", _layer(inputs, 8, Bounds.none()), ((inputs,),)), alphabet(name), rng, 0, "low"
    )
    network = Network(graph, samples(graph, 1, rng), DSP)
    found = []
    for index, runs in enumerate([None, (inputs // 8,)]):
        if runs is not None:
            monkeypatch.setattr(fields_linear, "longest_runs", lambda code, levels, runs=runs: runs)
        directory = tmp_path / str(index)
        write_program([network], directory)
        found.append(run_program([network], directory, "gcc", SANITIZE)[0])
    assert np.array_equal(found[0], network.expected())
    assert not np.array_equal(found[1], network.expected())


def test_formats_are_found_by_name() -> None:
    for layout in (pairs(1), pairs(2), nested(), byte_pairs()):
        assert field_format(layout.name, layout.bits) == layout
    with pytest.raises(ValueError, match="no format 'nested' of 8 bits"):
        field_format("nested", 8)


@pytest.mark.qemu
def test_instructions_per_mac_on_cortex_m4(tmp_path: Path) -> None:
    """Whole layers; limits a few percent above what was measured with gcc 12."""
    require_emulator()
    target = load_target("cortex-m4")
    limits = {
        ("midrise-2", 128, 128): 0.73,
        ("ternary", 128, 640): 0.68,
        ("binary", 128, 128): 0.66,
        ("midrise-2", 640, 128): 0.74,
        ("midrise-4", 128, 128): 1.07,
        ("symmetric-8", 128, 128): 0.97,
        ("symmetric-8", 640, 128): 1.08,
        ("midrise-2", 8, 128): 2.1,
    }
    networks = []
    for name, inputs, outputs in limits:
        rng = np.random.default_rng(inputs)
        case = Case("layer", _layer(inputs, outputs, Bounds.none()), ((inputs,),))
        graph = single_node(case, alphabet(name), rng)
        networks.append(Network(graph, samples(graph, 1, rng), target))
    results = run_emulated(networks, target, tmp_path)
    for (layer, limit), result in zip(limits.items(), results, strict=True):
        assert result.instructions <= limit * layer[1] * layer[2], (layer, result.instructions)

"""Fully connected kernels with several outputs in a word, in C and in assembly, against the operator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.kernels import fields_linear
from deployq.codegen.kernels.fields_layer import pair_code
from deployq.codegen.kernels.fields_linear import linked_sums_fit, longest_runs
from deployq.codegen.optimize import build_schedule
from deployq.ops import Case
from deployq.ops.linear import IntegerLinear, Linear
from deployq.ops.output_stage import Bounds
from deployq.targets import Target, load_target
from tests.codegen.batches import check_on_host
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.families import family
from tests.codegen.harness import DSP, SANITIZE, Network, run_program, write_program
from tests.integer_networks import samples, single_node

_FAMILIES = (family("DSP linear 1/2 bits"), family("DSP linear 4/8 bits"))


def _layer(inputs: int, outputs: int, bounds: Bounds) -> Linear:
    return Linear(np.zeros((outputs, inputs), np.float32), np.zeros(outputs), bounds)


def _functions(networks: list[Network]) -> list[str]:
    """The last kernel of every network."""
    return [
        build_schedule(network.graph, network.target.features, network.io_layout).steps[-1].call.function
        for network in networks
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler"), [(0, "gcc"), (1, "gcc"), (2, "clang")])
def test_layers_are_exact_on_the_host(batch: int, compiler: str) -> None:
    layers = [layer for family in _FAMILIES for layer in family.drawn(DSP, batch, 32)]
    check_on_host(layers, DSP, compiler)


def test_the_drawn_layers_reach_every_variant() -> None:
    drawn = [layer for family in _FAMILIES for _, layers in family.batches() for layer in layers]
    steps = (build_schedule(layer.graph(), DSP.features, "nhwc").steps for layer in drawn)
    functions = (next(step.call.function for step in one if "linear" in step.call.function) for one in steps)
    names = set(functions)
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


@pytest.mark.parametrize(
    ("output", "level", "step", "inputs"),
    [
        (2, -8, 1, 511),  # 8 * 128 * 512 = 2^19: one more than 20 bits hold
        (3, -8, 1, 511),
        (2, 7, 1, 585),
        (3, -15, 2, 546),
        (0, -8, 1, 8191),
        (1, -8, 1, 131071),
    ],
)
def test_linked_inner_products_are_proven_in_their_fields(
    output: int, level: int, step: int, inputs: int
) -> None:
    for count, fits in ((inputs - 1, True), (inputs, True), (inputs + 1, False)):
        levels = np.zeros((8, count), dtype=np.int64)
        levels[4 + output] = level
        assert linked_sums_fit(levels, step) == fits


@pytest.mark.parametrize("outputs", [2, 4])
def test_more_inputs_than_proven_fail_where_sums_are_linked(
    outputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights are the lowest and one sample is -128 everywhere: 2^19 with 512 inputs.

    With two outputs the fields of 20 bits belong to the outputs that fill up the four, and nothing fails.
    """
    found = {}
    for inputs in (511, 512):
        rng = np.random.default_rng(1)
        case = Case("layer", _layer(inputs, outputs, Bounds.none()), ((inputs,),))
        graph = single_node(case, alphabet("midtread-4"), rng, 0, "low")
        network = Network(graph, samples(graph, 1, rng), DSP)
        proven = "fields" in _functions([network])[0]
        monkeypatch.setattr(fields_linear, "linked_sums_fit", lambda levels, step: True)
        write_program([network], tmp_path / str(inputs))
        outcome = run_program([network], tmp_path / str(inputs), "gcc", SANITIZE)[0]
        found[inputs] = proven, np.array_equal(outcome, network.expected())
        monkeypatch.undo()
    assert found == {511: (True, True), 512: (outputs == 2, outputs == 2)}


def test_more_inputs_than_proven_fail_in_fields_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above: 128 * 128 * 512 is 2^23, one more than the upper field of a lane has room for."""
    found = {}
    for inputs in (511, 512):
        rng = np.random.default_rng(1)
        case = Case("layer", _layer(inputs, 4, Bounds.none()), ((inputs,),))
        graph = single_node(case, alphabet("midtread-8"), rng, 0, "low")
        network = Network(graph, samples(graph, 1, rng), DSP)
        proven = "fields" in _functions([network])[0]
        monkeypatch.setattr(fields_linear, "top_fields_fit", lambda levels, step, layout: True)
        write_program([network], tmp_path / str(inputs))
        outcome = run_program([network], tmp_path / str(inputs), "gcc", SANITIZE)[0]
        found[inputs] = proven, np.array_equal(outcome, network.expected())
        monkeypatch.undo()
    assert found == {511: (True, True), 512: (False, False)}


def _all_extremes(name: str, inputs: int, target: Target) -> Network:
    """Every four outputs are all lowest or all highest levels in another combination, and so are samples.

    The ratio of 2^-12 keeps the outputs of the largest sums, nearly 2^19, apart from those of wrong ones.
    """
    rng = np.random.default_rng(inputs)
    letters = alphabet(name)
    graph = single_node(Case("layer", _layer(inputs, 64, Bounds.none()), ((inputs,),)), letters, rng, 0)
    node = graph.nodes[-1]
    assert isinstance(node.op, IntegerLinear)
    accumulation = node.op.accumulation
    combination = [group >> output & 1 for group in range(16) for output in range(4)]
    levels = np.repeat(letters.values[[0, -1]][combination][:, np.newaxis], inputs, axis=1)
    stage = replace(accumulation.stage, shift=0, multiplier=np.full(64, 2**20, dtype=np.int64))
    weights = replace(accumulation.weights, levels=levels)
    op = IntegerLinear(replace(accumulation, weights=weights, stage=stage))
    extreme = graph.with_nodes((*graph.nodes[:-1], replace(node, op=op)), output=graph.output)
    return Network(extreme, np.where(samples(extreme, 6, rng) < 0, -128, 127).astype(np.int8), target)


@pytest.mark.qemu
def test_linked_sums_at_their_extremes(tmp_path: Path) -> None:
    """511 inputs are the most that are proven for these weights; 504 are not expanded in advance."""
    require_emulator()
    for target, directory in ((DSP, "host"), (load_target("cortex-m4"), "core")):
        batch = [_all_extremes(f"mid{kind}-4", n, target) for kind in ("tread", "rise") for n in (504, 511)]
        assert _functions(batch) == [
            f"dq_linear_w4a8_fields{odd}{wide}" for odd in ("", "_odd") for wide in ("_wide", "")
        ]
        if target is DSP:
            write_program(batch, tmp_path / directory)
            found = run_program(batch, tmp_path / directory, "gcc", SANITIZE)
        else:
            found = [result.outputs for result in run_emulated(batch, target, tmp_path / directory)]
        for network, outputs in zip(batch, found, strict=True):
            assert np.array_equal(network.expected(), outputs)


@pytest.mark.qemu
def test_instructions_per_mac_on_cortex_m4(tmp_path: Path) -> None:
    """Whole layers; limits a few percent above what was measured with gcc 12."""
    require_emulator()
    target = load_target("cortex-m4")
    limits = {
        ("midrise-2", 128, 128): 0.71,
        ("ternary", 128, 640): 0.66,
        ("binary", 128, 128): 0.65,
        ("midrise-2", 640, 128): 0.72,
        ("midrise-4", 128, 128): 0.95,
        ("midrise-4", 640, 128): 1.05,
        ("symmetric-8", 128, 128): 0.97,
        ("symmetric-8", 640, 128): 1.07,
        ("midrise-2", 8, 128): 1.95,
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

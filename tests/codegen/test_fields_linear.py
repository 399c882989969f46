"""Fully connected kernels with several outputs in a word, in C and in assembly, against the operator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.kernels import fields_linear
from deployq.codegen.kernels.fields_layer import pair_code
from deployq.codegen.kernels.fields_linear import longest_runs
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

_FAMILIES = tuple(family(f"DSP linear {widths} bits") for widths in ("1/2", "4/8", "3/5/6"))


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
        for width in ("1", "2", "3", "4", "5", "6", "8")
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


#: Alphabet, inputs of the lowest level that are proven with four outputs.
_LIMITS = (
    ("midtread-3", 1023),
    ("midtread-4", 511),
    ("midtread-5", 4095),
    ("midtread-6", 2047),
    ("midtread-8", 511),
)


@pytest.mark.parametrize("outputs", [2, 4])
def test_more_inputs_than_proven_fail(outputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights are the lowest and one sample is -128 everywhere.

    With three and four bits and two outputs the fields of 20 bits belong to the outputs that fill up the
    four, and nothing fails.
    """
    cases = [(letters, inputs) for letters, limit in _LIMITS for inputs in (limit, limit + 1)]
    networks = []
    for letters, inputs in cases:
        rng = np.random.default_rng(1)
        case = Case("layer", _layer(inputs, outputs, Bounds.none()), ((inputs,),))
        graph = single_node(case, alphabet(letters), rng, 0, "low")
        networks.append(Network(graph, samples(graph, 1, rng), DSP))
    proven = ["fields" in function for function in _functions(networks)]
    monkeypatch.setattr(fields_linear, "sums_fit", lambda levels, step, layout: True)
    write_program(networks, tmp_path)
    outcomes = run_program(networks, tmp_path, "gcc", SANITIZE)
    exact = [
        np.array_equal(outcome, network.expected())
        for outcome, network in zip(outcomes, networks, strict=True)
    ]
    spared = ("midtread-3", "midtread-4") if outputs == 2 else ()
    expected = [(letters, inputs) in _LIMITS or letters in spared for letters, inputs in cases]
    assert proven == expected
    assert exact == expected


def _all_extremes(name: str, inputs: int, target: Target) -> Network:
    """Every four outputs are all lowest or all highest levels in another combination, and so are samples.

    The ratio keeps the outputs of the largest sums apart from those of wrong ones.
    """
    rng = np.random.default_rng(inputs)
    letters = alphabet(name)
    graph = single_node(Case("layer", _layer(inputs, 64, Bounds.none()), ((inputs,),)), letters, rng, 0)
    node = graph.nodes[-1]
    assert isinstance(node.op, IntegerLinear)
    accumulation = node.op.accumulation
    combination = [group >> output & 1 for group in range(16) for output in range(4)]
    levels = np.repeat(letters.values[[0, -1]][combination][:, np.newaxis], inputs, axis=1)
    ratio = 2**32 * 100 // (int(np.abs(letters.values).max()) * 128 * inputs)
    stage = replace(accumulation.stage, shift=0, multiplier=np.full(64, ratio, dtype=np.int64))
    weights = replace(accumulation.weights, levels=levels)
    op = IntegerLinear(replace(accumulation, weights=weights, stage=stage))
    extreme = graph.with_nodes((*graph.nodes[:-1], replace(node, op=op)), output=graph.output)
    return Network(extreme, np.where(samples(extreme, 6, rng) < 0, -128, 127).astype(np.int8), target)


@pytest.mark.qemu
def test_sums_at_their_extremes(tmp_path: Path) -> None:
    """As many inputs as are proven for even levels, and whole blocks, which are not expanded in advance."""
    require_emulator()
    for target, directory in ((DSP, "host"), (load_target("cortex-m4"), "core")):
        batch = [
            _all_extremes(letters.replace("tread", kind), inputs, target)
            for letters, limit in _LIMITS
            for kind in ("tread", "rise")
            for inputs in (limit - 7, limit)
        ]
        assert _functions(batch) == [
            f"dq_linear_w{letters[-1]}a8_fields{odd}{wide}"
            for letters, _ in _LIMITS
            for odd in ("", "_odd")
            for wide in ("_wide", "")
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
        ("midrise-3", 128, 128): 1.05,
        ("midrise-3", 640, 128): 1.14,
        ("midrise-4", 128, 128): 0.95,
        ("midrise-4", 640, 128): 1.05,
        ("midtread-5", 128, 128): 1.52,
        ("midtread-5", 640, 128): 1.62,
        ("midtread-6", 128, 128): 1.42,
        ("midtread-6", 640, 128): 1.53,
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

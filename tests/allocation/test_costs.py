"""The sizes of assignments are those of the library that is built."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deployq.allocation.costs import ALPHABETS, CodeSizes, arena_bytes, flash_costs
from deployq.alphabet import Alphabet, alphabet
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions
from deployq.errors import BudgetError
from deployq.layerwise import WeightSettings, quantize_graph
from deployq.targets import load_target
from tests.allocation.networks import Example

TARGETS = ("cortex-m4", "cortex-m0plus", "host")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(4))
def test_predicted_sizes_are_those_of_the_built_library(target: str, seed: int) -> None:
    example = Example.make(samples=32)
    costs = flash_costs(example.graph, example.calibrated, load_target(target))
    rng = np.random.default_rng(seed)
    mixed: dict[str, Alphabet] = {}
    for name, layer in costs.layers.items():
        options = list(layer.options.values())
        mixed[name] = options[rng.integers(len(options))].alphabet
    network = quantize_graph(
        example.graph,
        example.calibrated,
        example.batches(),
        WeightSettings(alphabet("binary"), "msq", layers=mixed),
    )
    library = generate(network.graph, load_target(target), EmitOptions())
    assert costs.weights_bytes(mixed) == library.weights_bytes
    built = {facts.node: facts for facts in library.layers if facts.alphabet}
    for name, letters in mixed.items():
        assert costs.option(name, letters).tables_bytes == built[name].weights_bytes
    # The variant of a kernel and its scratch memory depend on the codes; the host's do not.
    arena = arena_bytes(example.graph, example.calibrated, load_target(target), EmitOptions(), mixed)
    assert 0.6 < arena / library.arena_bytes < 1.5
    if target == "host":
        assert arena == library.arena_bytes
        for name, letters in mixed.items():
            option, facts = costs.option(name, letters), built[name]
            assert (option.function, option.scratch_bytes) == (facts.function, facts.scratch_bytes)


def test_packed_bits_count_the_padding_and_nothing_else() -> None:
    example = Example.make(samples=32)
    costs = flash_costs(example.graph, example.calibrated, load_target("host"))
    one = {name: alphabet("binary") for name in costs.layers}
    # Rows of 27, 72, 72 and 8 taps: 4, 9, 9 and 1 bytes, for 8, 8, 8 (or fewer) and 5 channels.
    codes = sum(
        node.op.weight.shape[0] * -(-int(np.prod(node.op.weight.shape[1:])) // 8)  # type: ignore[attr-defined]
        for node in example.graph.nodes
        if node.name in costs.layers
    )
    assert costs.packed_bits(one) == 8 * codes / costs.weights
    assert costs.weights_bytes(one) > codes


def test_a_layer_with_an_alphabet_of_its_own_has_one_option() -> None:
    example = Example.make(samples=32)
    nodes = tuple(
        replace(node, op=replace(node.op, fixed_alphabet="symmetric-8")) if node.name == "stem" else node
        for node in example.graph.nodes
    )
    costs = flash_costs(example.graph.with_nodes(nodes), example.calibrated, load_target("cortex-m4"))
    assert list(costs.layers["stem"].options) == ["symmetric-8"]
    assert len(costs.layers["fc"].options) == len(ALPHABETS)


def test_code_is_counted_once_per_kernel() -> None:
    example = Example.make(samples=32)
    plain = flash_costs(example.graph, example.calibrated, load_target("cortex-m4"))
    mixed = {name: alphabet("binary") for name in plain.layers} | {"fc": alphabet("midrise-2")}
    kernels = {plain.option(name, letters).function for name, letters in mixed.items()}
    assert 1 < len(kernels) <= len(mixed)
    sizes = {kernel: 100 for kernel in kernels} | {"shared": 50, "unused": 7}
    needs = {kernel: frozenset((kernel, "shared")) for kernel in kernels}
    costs = replace(plain, code=CodeSizes(1000, sizes, needs))
    assert costs.flash_bytes(mixed) == plain.weights_bytes(mixed) + 1050 + 100 * len(kernels)


def test_ram_that_no_width_can_keep_to_is_refused_early() -> None:
    example = Example.make(samples=32)
    target = load_target("cortex-m0plus")
    costs = flash_costs(example.graph, example.calibrated, target)
    least = {
        name: min(layer.options.values(), key=lambda option: option.scratch_bytes).alphabet
        for name, layer in costs.layers.items()
    }
    needed = arena_bytes(example.graph, example.calibrated, target, EmitOptions(), least)
    with pytest.raises(BudgetError, match=f"{needed} bytes of RAM"):
        flash_costs(example.graph, example.calibrated, target, ram=needed - 1)
    tight = flash_costs(example.graph, example.calibrated, target, ram=needed)
    for name, layer in tight.layers.items():
        for option in layer.options.values():
            chosen = {**least, name: option.alphabet}
            assert arena_bytes(example.graph, example.calibrated, target, EmitOptions(), chosen) <= needed
    assert sum(len(layer.options) for layer in tight.layers.values()) < sum(
        len(layer.options) for layer in costs.layers.values()
    )

"""The workbench quantizes and measures as the real path does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from deployq.allocation.simulation import int8_codes, quantized_operator, round_to, run_rounded
from deployq.allocation.trial import known_quantizations, weighted_nodes
from deployq.allocation.workbench import Workbench, workbench
from deployq.alphabet import Alphabet, alphabet, default_alphabet
from deployq.errors import UsageError
from deployq.graph import Quantization, run_graph
from deployq.layerwise import WeightSettings, dequantize, quantize_graph, quantize_values
from deployq.ops import FloatOperator, WeightedOperator
from tests.allocation.networks import Example

SETTINGS = WeightSettings(alphabet("binary"), "gpfq")


@contextmanager
def bench_of(example: Example, settings: WeightSettings = SETTINGS) -> Iterator[Workbench]:
    with workbench(
        example.graph, example.calibrated, settings, example.batches(0, 128), example.batches(128)
    ) as bench:
        yield bench


def mixed(example: Example, *widths: str) -> dict[str, Alphabet]:
    return {
        node.name: default_alphabet(width)
        for node, width in zip(weighted_nodes(example.graph), widths, strict=True)
    }


def test_rounding_gives_the_values_of_int8_codes() -> None:
    rng = np.random.default_rng(0)
    quantization = Quantization(0.037, -29)
    values = (rng.normal(size=1000) * 3).astype(np.float32)
    expected = quantize_values(values, quantization)
    rounded = round_to(values.copy(), quantization)
    assert np.mean(int8_codes(rounded, quantization) != expected) <= 0.002  # ties in float32
    np.testing.assert_allclose(
        rounded, dequantize(int8_codes(rounded, quantization), quantization), rtol=1e-6
    )


def test_every_simulated_node_is_the_integer_one_but_for_ties() -> None:
    example = Example.make()
    network = quantize_graph(
        example.graph, example.calibrated, example.batches(), WeightSettings(alphabet("midtread-4"))
    )
    known = known_quantizations(example.graph, example.calibrated)
    codes = np.concatenate([codes for _, codes in example.batches()])
    values = {example.graph.input: codes}
    for node, source in zip(network.graph.nodes, example.graph.nodes, strict=True):
        values[node.output] = node.op.run([values[name] for name in node.inputs])  # type: ignore[attr-defined]
        operator = source.op
        if isinstance(operator, WeightedOperator):
            operator = quantized_operator(operator, node.op.accumulation.weights)  # type: ignore[attr-defined]
        assert isinstance(operator, FloatOperator)
        real = [dequantize(values[name], known[name]) for name in node.inputs]
        simulated = int8_codes(run_rounded(source, operator, real, known[node.output]), known[node.output])
        difference = np.abs(simulated.astype(int) - values[node.output].astype(int))
        assert difference.max(initial=0) <= 1
        assert np.mean(difference) < 0.1


def test_a_mixed_network_is_as_good_as_the_one_that_is_built() -> None:
    example = Example.make()
    chosen = mixed(example, *("82348"[: len(weighted_nodes(example.graph))]))
    with bench_of(example) as bench:
        simulated = bench.reference.divergence(bench.outputs(bench.solve(chosen).operators))
        network = quantize_graph(
            example.graph,
            example.calibrated,
            example.batches(0, 128),
            WeightSettings(alphabet("binary"), "gpfq", layers=chosen),
        )
        quantization = network.graph.tensors[network.graph.output].quantization
        assert quantization is not None
        built = [
            dequantize(run_graph(network.graph, codes), quantization) for _, codes in example.batches(128)
        ]
        assert simulated == pytest.approx(bench.reference.divergence(built), rel=0.1)


def test_what_was_solved_before_does_not_change_a_result() -> None:
    example = Example.make()
    count = len(weighted_nodes(example.graph))
    first, second, third = ("3" * count, "1" + "3" * (count - 1), "3" * (count - 1) + "2")
    with bench_of(example) as bench:
        used = []
        for widths in (first, second, first, third, second):
            operators = bench.solve(mixed(example, *widths)).operators
            used.append((widths, bench.reference.divergence(bench.outputs(operators))))
    for widths, divergence in used:
        with bench_of(example) as bench:
            operators = bench.solve(mixed(example, *widths)).operators
            assert bench.reference.divergence(bench.outputs(operators)) == divergence


def test_other_alphabets_are_solved_on_the_same_statistics() -> None:
    example = Example.make()
    count = len(weighted_nodes(example.graph))
    chosen = mixed(example, *"4" * count)
    last = weighted_nodes(example.graph)[-1].name
    with bench_of(example) as bench:
        solved = bench.solve(chosen, {last: [alphabet("binary"), alphabet("midrise-4")]})
        assert list(solved.others[last]) == ["binary"]
        alone = bench.solve({**chosen, last: alphabet("binary")}).operators[last]
        assert solved.others[last]["binary"] is alone


def test_no_samples_are_refused() -> None:
    example = Example.make()
    chosen = mixed(example, *"4" * len(weighted_nodes(example.graph)))
    with (
        workbench(example.graph, example.calibrated, SETTINGS, [], example.batches(128)) as bench,
        pytest.raises(UsageError, match="no calibration samples"),
    ):
        bench.solve(chosen)


def test_statistics_too_large_to_keep_are_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    example = Example.make()
    chosen = mixed(example, *"4" * len(weighted_nodes(example.graph)))
    last = weighted_nodes(example.graph)[-1].name
    with bench_of(example) as bench:
        expected = bench.solve(chosen, {last: [alphabet("binary")]}).others[last]["binary"]
    monkeypatch.setattr("deployq.allocation.workbench._KEPT_STATISTICS", 0)
    with bench_of(example) as bench:
        bench.solve(chosen)
        found = bench.solve(chosen, {last: [alphabet("binary")]}).others[last]["binary"]
    np.testing.assert_array_equal(found.weight, expected.weight)  # type: ignore[attr-defined]

"""Which layers are solved on samples, up to a whole network."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest

import deployq
from deployq.layerwise import IntegerModel
from deployq.ops.linear import IntegerLinear
from deployq.quantizers import method_names
from deployq.quantizers.forms import statistics_accumulator
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.samples import SampleAccumulator
from deployq.quantizers.statistics import StatisticsAccumulator
from deployq.steps import prepare, quantize_prepared
from tests.frontends.models import build as make_model

INPUTS, HIDDEN, SAMPLES = 1600, 8, 40


def takes_samples(
    rows: int, inputs: int = 100, method: str = "gpfq", refine: int = 0, ridge: float = 0
) -> bool:
    options = SolverOptions(ridge=ridge)
    return isinstance(statistics_accumulator(1, inputs, rows, method, options, refine), SampleAccumulator)


def test_the_rule() -> None:
    assert takes_samples(50) and not takes_samples(51)
    assert takes_samples(4999, inputs=5000), "where products are large, all that are fewer"
    assert not takes_samples(5000, inputs=5000)
    assert {name for name in method_names() if takes_samples(50, method=name)} == {
        "gpfq",
        "sparse-gpfq",
        "spfq",
    }
    assert not takes_samples(50, refine=1) and not takes_samples(50, ridge=0.1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network with a wide layer."""
    rng = np.random.default_rng(0)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "first"], ["h"]),
        onnx.helper.make_node("Relu", ["h"], ["r"]),
        onnx.helper.make_node("MatMul", ["r", "second"], ["y"]),
    ]
    shapes = {"first": (INPUTS, HIDDEN), "second": (HIDDEN, 3)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    path = tmp_path / "wide.onnx"
    onnx.save(make_model(nodes, weights, ["N", INPUTS]), path)
    return path


def peak_and_network(model: Path, method: str) -> tuple[int, IntegerModel]:
    """What `deployq.quantize` does with an imported model: its peak memory in bytes, and the network."""
    samples = np.random.default_rng(1).normal(size=(SAMPLES, INPUTS)).astype(np.float32)
    config = deployq.BuildConfig(method=method, bits="ternary")
    prepared = prepare(model, samples, config)
    tracemalloc.start()
    network = quantize_prepared(prepared, config)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, network


@pytest.mark.parametrize("method", ["gpfq", "sparse-gpfq", "spfq"])
def test_a_network_is_solved_on_samples_with_the_same_result(
    model: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_samples, found = peak_and_network(model, method)
    monkeypatch.setattr(
        "deployq.layerwise.statistics_accumulator",
        lambda groups, inputs, *others: StatisticsAccumulator(groups, inputs),
    )
    by_products, wanted = peak_and_network(model, method)
    assert sum(isinstance(node.op, IntegerLinear) for node in found.graph.nodes) == 2
    products = 8 * INPUTS**2
    assert by_samples < products / 2 and by_products > 3 * products
    for ours, theirs in zip(found.graph.nodes, wanted.graph.nodes, strict=True):
        if isinstance(ours.op, IntegerLinear) and isinstance(theirs.op, IntegerLinear):
            weights, others = ours.op.accumulation.weights, theirs.op.accumulation.weights
            np.testing.assert_array_equal(weights.levels, others.levels)
            np.testing.assert_allclose(weights.scales, others.scales, rtol=1e-5)

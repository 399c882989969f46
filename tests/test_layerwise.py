"""Layer-by-layer quantization on the deployed path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deployq.activations import ActivationStore
from deployq.alphabet import alphabet
from deployq.calibrate import RangeMethod, calibrate
from deployq.graph import Graph, Node, Quantization, Tensor, run_graph
from deployq.layerwise import IntegerModel, WeightSettings, dequantize, quantize_graph, quantize_values
from deployq.ops.add import Add
from deployq.ops.affine import Affine
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.clip import Clip
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.reshape import Reshape
from deployq.ops.window import Window
from deployq.passes import simplify
from deployq.verify.reference import run_reference


def residual_graph(rng: np.random.Generator) -> Graph:
    """Two convolutions with a shortcut, BatchNormalization after ReLU, global average, classifier."""
    same = Window((3, 3), pads=(1, 1, 1, 1))

    def conv(out: int, inputs: int) -> Conv2d:
        weight = rng.normal(size=(out, inputs, 3, 3)) / np.sqrt(9 * inputs)
        return Conv2d(weight.astype(np.float32), rng.normal(size=out) * 0.1, same)

    relu = Clip(0.0, np.inf)
    nodes = (
        Node("stem", conv(8, 3), ("x",), "a"),
        Node("stem relu", relu, ("a",), "b"),
        Node("bn", Affine(rng.normal(size=8), rng.normal(size=8)), ("b",), "c"),
        Node("conv", conv(8, 8), ("c",), "d"),
        Node("sum", Add(), ("d", "c"), "e"),
        Node("relu", relu, ("e",), "f"),
        Node("pool", AveragePool2d(Window((6, 6))), ("f",), "g"),
        Node("flatten", Reshape((8,)), ("g",), "h"),
        Node("fc", Linear(rng.normal(size=(5, 8)).astype(np.float32), np.zeros(5)), ("h",), "y"),
    )
    tensors = {"x": Tensor("x", (3, 6, 6))}
    for node in nodes:
        shape = node.op.output_shape([tensors[name].shape for name in node.inputs])
        tensors[node.output] = Tensor(node.output, shape)
    return Graph("residual", "x", "y", nodes, tensors)


def quantized(graph: Graph, batch: np.ndarray, name: str, **settings: object) -> IntegerModel:  # type: ignore[type-arg]
    """Quantize with one calibration batch."""
    quantizations = calibrate(graph, lambda: [batch], RangeMethod(), None)
    codes = quantize_values(batch, quantizations[graph.input])
    return quantize_graph(
        graph,
        quantizations,
        [(batch, codes)],
        WeightSettings(alphabet(name), **settings),  # type: ignore[arg-type]
    )


def relative_error(graph: Graph, model: IntegerModel, batch: np.ndarray) -> float:  # type: ignore[type-arg]
    """Error of the integer network against the float one, relative to the float output's spread."""
    source = model.graph.tensors[graph.input].quantization
    target = model.graph.tensors[graph.output].quantization
    assert source is not None and target is not None
    expected = run_graph(graph, batch)
    found = dequantize(run_reference(model.graph, quantize_values(batch, source)), target)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean(axis=0)))


@pytest.fixture(scope="module")
def batch() -> np.ndarray:  # type: ignore[type-arg]
    """Calibration samples."""
    return np.random.default_rng(1).normal(size=(128, 3, 6, 6)).astype(np.float32)


def test_error_falls_with_the_width(batch: np.ndarray) -> None:  # type: ignore[type-arg]
    graph = simplify(residual_graph(np.random.default_rng(0)))
    errors = [
        relative_error(graph, quantized(graph, batch, name), batch)
        for name in ("binary", "midrise-2", "midtread-4", "symmetric-8")
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.15


def test_gpfq_beats_rounding(batch: np.ndarray) -> None:  # type: ignore[type-arg]
    graph = simplify(residual_graph(np.random.default_rng(0)))
    gpfq, msq = (
        relative_error(graph, quantized(graph, batch, "midrise-2", method=method), batch)
        for method in ("gpfq", "msq")
    )
    assert gpfq < 0.9 * msq


def test_every_tensor_is_quantized_and_errors_are_reported(batch: np.ndarray) -> None:  # type: ignore[type-arg]
    graph = simplify(residual_graph(np.random.default_rng(0)))
    model = quantized(graph, batch, "ternary")
    assert all(tensor.quantization for tensor in model.graph.tensors.values())
    assert all(0 < error < 1 for error in model.relative_errors.values())
    assert len(model.relative_errors) == 3


def test_the_seed_decides(batch: np.ndarray) -> None:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = (Node("conv", Conv2d(weight, np.zeros(4), Window((3, 3), pads=(1, 1, 1, 1))), ("x",), "y"),)
    tensors = {"x": Tensor("x", (3, 12, 12)), "y": Tensor("y", (4, 12, 12))}
    graph = Graph("one", "x", "y", nodes, tensors)
    big = rng.normal(size=(16, 3, 12, 12)).astype(np.float32)  # 144 positions: they are sampled

    def scales(seed: int) -> list[float]:
        op = quantized(graph, big, "midrise-2", seed=seed).graph.nodes[0].op
        return list(op.accumulation.weights.scales)  # type: ignore[attr-defined]

    assert scales(0) == scales(0)
    assert scales(0) != scales(1)


def test_fixed_alphabets_are_kept(batch: np.ndarray) -> None:  # type: ignore[type-arg]
    graph = residual_graph(np.random.default_rng(0))
    affine = Affine(np.array([0.5, -2.0, 3.0]), np.zeros(3))
    nodes = [Node("first", affine, ("x",), "x'"), Node("relu'", Clip(0.0, 1.0), ("x'",), "y'")]
    model = quantized(simplify(graph.with_nodes(nodes, output="y'")), batch, "binary")
    (op,) = [node.op for node in model.graph.nodes if hasattr(node.op, "accumulation")]
    weights = op.accumulation.weights
    assert weights.alphabet.name == "symmetric-8"
    np.testing.assert_allclose((weights.levels[:, 0] * weights.scales), affine.gain, rtol=1e-3)


def test_a_network_of_dead_inputs_and_channels_survives() -> None:
    graph = simplify(residual_graph(np.random.default_rng(0)))
    model = quantized(graph, np.zeros((3, 3, 6, 6), np.float32), "binary")
    outputs = run_reference(model.graph, np.zeros((1, 3, 6, 6), np.int8))
    assert outputs.shape == (1, 5)


def test_the_store_spills_to_disk(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path, budget_bytes=1000)
    chunks = [np.full((100,), index, np.int8) for index in range(30)]
    for index, chunk in enumerate(chunks):
        store.put("t", index, chunk)
    assert len(list(tmp_path.iterdir())) == 20
    for index, chunk in enumerate(chunks):
        np.testing.assert_array_equal(store.get("t", index), chunk)
    store.drop("t")
    assert not list(tmp_path.iterdir())
    store.put("u", 0, np.zeros(1000, np.int8))
    assert not list(tmp_path.iterdir())


def test_pixels_have_no_rounding() -> None:
    quantization = Quantization(1 / 255, -128)
    codes = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_allclose(dequantize(codes, quantization), np.arange(256) / 255, rtol=1e-6)


def two_branches(seed: int = 0) -> Graph:
    """Two convolutions of the same input, one of 1x1 and one of 3x3, whose outputs are added."""
    rng = np.random.default_rng(seed)
    small = Conv2d(rng.normal(size=(6, 5, 1, 1)).astype(np.float32), np.zeros(6), Window((1, 1)))
    large = Conv2d(
        rng.normal(size=(6, 5, 3, 3)).astype(np.float32), np.zeros(6), Window((3, 3), pads=(1, 1, 1, 1))
    )
    nodes = (
        Node("large", large, ("x",), "a"),
        Node("small", small, ("x",), "b"),
        Node("sum", Add(), ("a", "b"), "y"),
    )
    tensors = {"x": Tensor("x", (5, 7, 7))}
    for node in nodes:
        shape = node.op.output_shape([tensors[name].shape for name in node.inputs])
        tensors[node.output] = Tensor(node.output, shape)
    return Graph("branches", "x", "y", nodes, tensors)


@pytest.mark.parametrize("method", ["gpfq", "qronos"])
def test_the_later_branch_makes_up_for_the_earlier_one(method: str) -> None:
    graph = two_branches()
    batch = np.random.default_rng(1).normal(size=(300, 5, 7, 7)).astype(np.float32)
    alone, together = (
        quantized(graph, batch, "ternary", method=method, refine=3, compensate=compensate)
        for compensate in (False, True)
    )
    assert [node.name for node in together.graph.nodes] == ["large", "small", "sum"]
    np.testing.assert_array_equal(  # the smaller layer is solved first, as if it were alone
        together.graph.nodes[1].op.levels, alone.graph.nodes[1].op.levels
    )
    assert relative_error(graph, together, batch) < 0.98 * relative_error(graph, alone, batch)


def test_no_branch_to_make_up_for_changes_nothing() -> None:
    branches = two_branches()
    chain = (branches.nodes[0], Node("relu", Clip(0.0, np.inf), ("a",), "y"))
    tensors = {name: branches.tensors[name] for name in ("x", "a", "y")}
    graph = Graph("chain", "x", "y", chain, tensors)
    batch = np.random.default_rng(2).normal(size=(50, 5, 7, 7)).astype(np.float32)
    alone, together = (quantized(graph, batch, "ternary", compensate=value) for value in (False, True))
    for first, second in zip(alone.graph.nodes, together.graph.nodes, strict=True):
        if hasattr(first.op, "accumulation"):
            np.testing.assert_array_equal(
                first.op.accumulation.weights.levels, second.op.accumulation.weights.levels
            )

"""Every operator and alphabet: the Python reference and ONNX Runtime agree on every byte, at OFF and ALL."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from deployq.alphabet import Alphabet, alphabet
from deployq.graph import Graph
from deployq.onnx_export import export_onnx, metadata_of, with_outputs
from deployq.ops.base import Case
from deployq.verify.onnxruntime import LEVELS, run_onnxruntime
from deployq.verify.reference import run_reference, run_reference_layers
from tests.integer_networks import ALPHABETS, NETWORKS, NetworkBuilder, operator_cases, samples, single_node

WEIGHTED = ("conv2d", "linear")
CASES = list(operator_cases())


def _agree(graph: Graph, rng: np.random.Generator) -> None:
    batch = samples(graph, 12, rng)
    expected = run_reference(graph, batch)
    model = export_onnx(graph, {}).SerializeToString()
    for level in LEVELS:
        found = run_onnxruntime(model, batch, level)[0]
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, expected, err_msg=level)


PAIRS = [
    pytest.param(case, letters, id=f"{kind} {case.name} {letters.name if kind in WEIGHTED else ''}".strip())
    for kind, case in CASES
    for letters in (ALPHABETS if kind in WEIGHTED else ALPHABETS[:1])
]


@pytest.mark.parametrize(("case", "letters"), PAIRS)
def test_operators(case: Case, letters: Alphabet) -> None:
    rng = np.random.default_rng(3)
    _agree(single_node(case, letters, rng), rng)


@pytest.mark.parametrize("zero_point", [-128, 127])
@pytest.mark.parametrize("extreme", ["low", "high"])
@pytest.mark.parametrize(
    "letters", [alphabet("binary"), alphabet("midtread-4"), alphabet("midrise-8")], ids=str
)
def test_extreme_weights(letters: Alphabet, extreme: str, zero_point: int) -> None:
    rng = np.random.default_rng(4)
    for kind, case in CASES:
        if kind in WEIGHTED:
            _agree(single_node(case, letters, rng, zero_point, extreme), rng)


@pytest.mark.parametrize("letters", ALPHABETS, ids=lambda letters: letters.name)
@pytest.mark.parametrize("make", NETWORKS)
def test_networks(make, letters: Alphabet) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(5)
    _agree(make(rng, letters), rng)


@pytest.mark.parametrize(
    ("name", "stored", "opset"),
    [
        ("binary", TensorProto.UINT8, 21),
        ("ternary", TensorProto.INT2, 25),
        ("midrise-2", TensorProto.INT2, 25),
        ("midtread-3", TensorProto.INT4, 21),
        ("midtread-4", TensorProto.INT4, 21),
        ("midrise-4", TensorProto.INT4, 21),
        ("symmetric-8", TensorProto.INT8, 21),
    ],
)
def test_weights_are_stored_narrow(name: str, stored: int, opset: int) -> None:
    case = next(case for kind, case in CASES if kind == "linear" and "130" in case.name)
    model = export_onnx(single_node(case, alphabet(name), np.random.default_rng(6)), {})
    largest = max(
        model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)) * (tensor.dims != [256, 8])
    )
    assert largest.data_type == stored
    assert model.opset_import[0].version == opset
    size = {TensorProto.UINT8: 1, TensorProto.INT2: 2, TensorProto.INT4: 4, TensorProto.INT8: 8}[stored]
    assert len(largest.raw_data) == -(-130 * 3 * size // 8)


def test_layers_can_be_traced() -> None:
    rng = np.random.default_rng(7)
    graph = NETWORKS[0](rng, alphabet("ternary"))
    batch = samples(graph, 3, rng)
    traced = with_outputs(export_onnx(graph, {}).SerializeToString(), [node.output for node in graph.nodes])
    for found, expected in zip(
        run_onnxruntime(traced, batch, "OFF"), run_reference_layers(graph, batch), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_metadata_and_float_io() -> None:
    rng = np.random.default_rng(8)
    graph = NETWORKS[3](rng, alphabet("midrise-2"))
    source, target = graph.tensors[graph.input].quantization, graph.tensors[graph.output].quantization
    assert source is not None and target is not None
    plain = export_onnx(graph, {"extra": "kept"})
    entries = metadata_of(plain.SerializeToString())
    assert float(entries["input_scale"]) == source.scale
    assert int(entries["output_zero_point"]) == target.zero_point
    assert (entries["layout"], entries["extra"]) == ("NCHW", "kept")
    batch = samples(graph, 20, rng)
    real = ((batch.astype(np.float64) - source.zero_point) * source.scale).astype(np.float32)
    with_float = export_onnx(graph, {}, float_io=True)
    onnx.checker.check_model(with_float, full_check=True)
    found = run_onnxruntime(with_float.SerializeToString(), real)[0]
    expected = (run_reference(graph, batch).astype(np.float32) - target.zero_point) * np.float32(target.scale)
    np.testing.assert_array_equal(found, expected)


def test_float_io_avoids_names_of_the_model() -> None:
    rng = np.random.default_rng(10)
    builder = NetworkBuilder(rng, alphabet("ternary"), (5,))
    renamed = builder.graph(builder.linear("x", 3))
    tensors = {
        "input_real": replace(renamed.tensors["x"], name="input_real"),
        "output_real": renamed.tensors["t0"],
    }
    tensors["output_real"] = replace(tensors["output_real"], name="output_real")
    node = replace(renamed.nodes[0], inputs=("input_real",), output="output_real")
    graph = Graph("g", "input_real", "output_real", (node,), tensors)
    onnx.checker.check_model(export_onnx(graph, {}, float_io=True), full_check=True)


def test_batch_is_dynamic() -> None:
    rng = np.random.default_rng(9)
    graph = NETWORKS[1](rng, alphabet("binary"))
    model = export_onnx(graph, {}).SerializeToString()
    batch = samples(graph, 33, rng)
    np.testing.assert_array_equal(run_onnxruntime(model, batch)[0], run_reference(graph, batch))

"""The import as a whole: order, IR 3, messages, and the real networks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deployq.errors import ModelError, UsageError
from deployq.frontends.onnx import load_onnx, load_onnx_bytes
from deployq.graph import run_graph
from deployq.passes import simplify
from tests.frontends.models import build, check_against_oracle, model_bytes, oracle, random, random_batch

make = helper.make_node
MODELS = (
    "mlp_mnist",
    "cnn_cifar10",
    "resnet8",
    "resnet8ft",
    "kws_dscnn",
    "vww_mobilenetv1",
    "ad01_autoencoder",
)
LAYERS = {
    "mlp_mnist": ["linear"] * 3,
    "cnn_cifar10": [*(["conv2d", "conv2d", "maxpool2d"] * 3), "reshape", "linear", "linear"],
}


@pytest.mark.parametrize("name", MODELS)
def test_real_networks(name):
    if "DEPLOYQ_DATA" not in os.environ:
        pytest.skip("DEPLOYQ_DATA is not set: it names the directory with the benchmark networks")
    path = Path(os.environ["DEPLOYQ_DATA"]) / "models" / f"{name}.onnx"
    imported = load_onnx(path)
    graph = simplify(imported.graph)
    samples = random_batch(4, graph.tensors[graph.input].shape)
    expected = oracle(path.read_bytes(), samples)
    np.testing.assert_allclose(
        run_graph(graph, samples), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )
    layers = [node.op.kind for node in graph.nodes]
    assert "affine" not in layers and "clip" not in layers
    if name in LAYERS:
        assert layers == LAYERS[name]


def test_unsorted_nodes():
    nodes = [
        make("Relu", ["c"], ["y"]),
        make("Gemm", ["r", "w"], ["c"]),
        make("Relu", ["x"], ["r"]),
    ]
    data = model_bytes(nodes, {"w": random(7, 3)}, ["N", 7])
    graph = load_onnx_bytes(data, "test").graph
    samples = random_batch(3, (7,))
    expected = np.maximum(np.maximum(samples, 0) @ random(7, 3), 0)
    np.testing.assert_allclose(run_graph(graph, samples), expected, rtol=1e-5)


def test_initialisers_listed_as_inputs():
    nodes = [make("Gemm", ["x", "w", "b"], ["y"])]
    constants = {"w": random(7, 3), "b": random(3)}
    data = model_bytes(nodes, constants, ["N", 7], opset=11, ir_version=3, constants_as_inputs=True)
    check_against_oracle(data)


def test_what_the_import_says_about_the_file():
    model = build([make("Relu", ["x"], ["y"])], {}, ["N", 7], opset=13)
    model.producer_name, model.producer_version = "somebody", "1.2"
    imported = load_onnx_bytes(model.SerializeToString(), "test")
    assert (imported.producer, imported.opset, len(imported.sha256)) == ("somebody 1.2", 13, 64)


def test_all_unsupported_nodes_are_listed_at_once():
    nodes = [
        make("Sigmoid", ["x"], ["s"], name="gate"),
        make("Conv", ["s", "w"], ["c"], name="fine"),
        make("Softmax", ["c"], ["m"], name="spatial", axis=1),
        make("Resize", ["m", "", "scales"], ["z"], name="up"),
        make("Mul", ["z", "z"], ["y"], name="square"),
    ]
    constants = {"w": random(3, 4, 1, 1), "scales": np.array([1, 1, 2, 2], dtype=np.float32)}
    with pytest.raises(ModelError) as caught:
        load_onnx_bytes(model_bytes(nodes, constants, ["N", 4, 5, 5]), "net.onnx")
    text = str(caught.value)
    assert text.startswith("4 nodes are not supported")
    for part in ("net.onnx", 'Sigmoid "gate"', 'Softmax "spatial"', 'Resize "up"', 'Mul "square"'):
        assert part in text
    assert "fine" not in text
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (["N", 3, 4], "supported: (batch, channels"),
        (["N", 3, "H", "W"], "input of shape ['?', 3, '?', '?']"),
        (["N", 3, -4, 4], "input of shape"),
        ([], "input of shape"),
        (["N", 2**20, 2**20, 2**20], "too large"),
    ],
)
def test_input_shapes_that_are_refused(dims, message):
    with pytest.raises(ModelError) as caught:
        load_onnx_bytes(model_bytes([make("Relu", ["x"], ["y"])], {}, dims), "test")
    assert message in str(caught.value)


@pytest.mark.parametrize("opset", [10, 27])
def test_opsets_that_are_refused(opset):
    with pytest.raises(ModelError, match=f"opset {opset}"):
        load_onnx_bytes(model_bytes([make("Relu", ["x"], ["y"])], {}, ["N", 7], opset=opset), "test")


def test_two_inputs_or_outputs():
    model = build([make("Relu", ["x"], ["y"])], {}, ["N", 7])
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, ["N", 7]))
    with pytest.raises(ModelError, match="2 inputs \\('x', 'second'\\)"):
        load_onnx_bytes(model.SerializeToString(), "test")
    model.graph.input.pop()
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 7]))
    with pytest.raises(ModelError, match="2 outputs"):
        load_onnx_bytes(model.SerializeToString(), "test")


def test_integer_input():
    model = build([make("Relu", ["x"], ["y"])], {}, ["N", 7])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(ModelError, match="UINT8"):
        load_onnx_bytes(model.SerializeToString(), "test")


def test_second_output_of_a_node():
    node = make("MaxPool", ["x"], ["unused", "y"], kernel_shape=[2, 2])
    model = build([node], {}, ["N", 3, 4, 4])
    output = helper.make_tensor_value_info("y", TensorProto.INT64, ["N", 3, 3, 3])
    model.graph.output[0].CopyFrom(output)
    with pytest.raises(ModelError, match="only the first output"):
        load_onnx_bytes(model.SerializeToString(), "test")


def test_constant_output():
    nodes = [make("Relu", ["x"], ["unused"]), make("Identity", ["c"], ["y"])]
    with pytest.raises(ModelError, match="does not depend on the input"):
        load_onnx_bytes(model_bytes(nodes, {"c": random(1, 7)}, ["N", 7]), "test")


def test_equal_node_names_are_made_different():
    nodes = [make("Relu", ["x"], ["a"], name="same"), make("Relu", ["a"], ["y"], name="same")]
    graph = load_onnx_bytes(model_bytes(nodes, {}, ["N", 7]), "test").graph
    assert [node.name for node in graph.nodes] == ["same", "same_2"]


def test_dead_nodes_are_dropped():
    nodes = [make("Relu", ["x"], ["y"]), make("Identity", ["x"], ["i"]), make("Relu", ["i"], ["dead"])]
    graph = load_onnx_bytes(model_bytes(nodes, {}, ["N", 7]), "test").graph
    assert [node.output for node in graph.nodes] == ["y"]


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such model file"):
        load_onnx(tmp_path / "missing.onnx")


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8]
)
@pytest.mark.parametrize("raw", [True, False])
def test_constant_types(kind, raw):
    values = np.array([[1, -2], [0.5 if kind != TensorProto.INT8 else 3, 4]])
    array = values.astype(helper.tensor_dtype_to_np_dtype(kind))
    tensor = (
        numpy_helper.from_array(array, "w") if raw else helper.make_tensor("w", kind, (2, 2), array.flatten())
    )
    model = build([make("Cast", ["w"], ["f"], to=1), make("Gemm", ["x", "f"], ["y"])], {}, ["N", 2])
    model.graph.initializer.append(tensor)
    graph = load_onnx_bytes(model.SerializeToString(), "test").graph
    np.testing.assert_array_equal(graph.nodes[0].op.weight, values.T)

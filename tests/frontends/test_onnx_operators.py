"""Every supported operator in every form exporters write, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.frontends.models import batch_norm, batch_norm_node, check_against_oracle, model_bytes, random

OPSETS = (11, 13, 17, 18, 21)
make = helper.make_node
IMAGE = ["N", 4, 9, 8]


def kinds(graph) -> list[str]:
    return [node.op.kind for node in graph.nodes]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    ("weights", "attributes"),
    [
        ((6, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        ((6, 4, 3, 2), {"dilations": [2, 3]}),
        ((4, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((8, 2, 2, 2), {"group": 2, "auto_pad": "SAME_LOWER"}),
        ((2, 4, 3, 3), {"auto_pad": "VALID", "kernel_shape": [3, 3]}),
    ],
)
def test_conv(opset, weights, attributes):
    nodes = [make("Conv", ["x", "w", "b"], ["y"], **attributes)]
    constants = {"w": random(*weights), "b": random(weights[0])}
    assert kinds(check_against_oracle(model_bytes(nodes, constants, IMAGE, opset=opset))) == ["conv2d"]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ],
)
def test_pools(opset, op_type, attributes):
    check_against_oracle(model_bytes([make(op_type, ["x"], ["y"], **attributes)], {}, IMAGE, opset=opset))


@pytest.mark.parametrize(
    "attributes", [{"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_LOWER"}, {"ceil_mode": 1, "strides": [2, 2]}]
)
def test_average_pool_that_counts_the_padding(attributes):
    node = make("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], count_include_pad=1, **attributes)
    check_against_oracle(model_bytes([node], {}, IMAGE))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduce_mean_and_flatten(opset, keepdims):
    axes = {"axes": [-1, -2]} if opset < 18 else {}
    inputs = ["x"] if opset < 18 else ["x", "axes"]
    constants = {} if opset < 18 else {"axes": np.array([-1, -2])}
    mean = make("ReduceMean", inputs, ["m"], keepdims=keepdims, **axes)
    check_against_oracle(model_bytes([mean, make("Flatten", ["m"], ["y"])], constants, IMAGE, opset=opset))


@pytest.mark.parametrize("opset", OPSETS)
def test_global_average_and_squeeze(opset):
    inputs, attributes = (["g"], {"axes": [2, 3]}) if opset < 13 else (["g", "axes"], {})
    constants = {} if opset < 13 else {"axes": np.array([2, 3])}
    nodes = [make("GlobalAveragePool", ["x"], ["g"]), make("Squeeze", inputs, ["y"], **attributes)]
    check_against_oracle(model_bytes(nodes, constants, IMAGE, opset=opset))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("attributes", [{"transB": 1}, {"alpha": 0.5, "beta": -2.0}])
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), ()])
def test_gemm(opset, attributes, bias):
    weight = random(5, 7) if attributes.get("transB") else random(7, 5)
    nodes = [make("Gemm", ["x", "w", "b"], ["y"], **attributes)]
    constants = {"w": weight, "b": np.asarray(random(*bias), dtype=np.float32)}
    assert kinds(check_against_oracle(model_bytes(nodes, constants, ["N", 7], opset=opset))) == ["linear"]


@pytest.mark.parametrize("operands", [["m", "b"], ["b", "m"]])
def test_matmul_and_add_become_one_layer(operands):
    nodes = [make("MatMul", ["x", "w"], ["m"]), make("Add", operands, ["a"]), make("Softmax", ["a"], ["y"])]
    graph = check_against_oracle(model_bytes(nodes, {"w": random(7, 5), "b": random(5)}, [None, 7]))
    assert kinds(graph) == ["linear", "softmax"]


@pytest.mark.parametrize("opset", OPSETS)
def test_relu6_with_constant_nodes(opset):
    nodes = [
        make("Constant", [], ["low"], value=numpy_helper.from_array(np.array(0, dtype=np.float32))),
        make("Constant", [], ["high"], value=numpy_helper.from_array(np.array(6, dtype=np.float32))),
        make("Conv", ["x", "w"], ["c"]),
        make("Clip", ["c", "low", "high"], ["y"]),
    ]
    graph = check_against_oracle(model_bytes(nodes, {"w": random(3, 4, 1, 1) * 5}, IMAGE, opset=opset))
    assert kinds(graph) == ["conv2d"]
    assert (float(graph.nodes[0].op.bounds.low), float(graph.nodes[0].op.bounds.high)) == (0, 6)


@pytest.mark.parametrize("bounds", [("", "h"), ("l", ""), ("l",), ("l", "h")])
def test_clip_with_absent_bounds(bounds):
    constants = {"l": np.array([-0.5], dtype=np.float32), "h": np.array(0.25, dtype=np.float32)}
    if "l" in bounds:
        constants["l"] = constants["l"].reshape(())
    check_against_oracle(model_bytes([make("Clip", ["x", *bounds], ["y"])], constants, IMAGE))


@pytest.mark.parametrize("positions", ["before", "after", "both", "after pool", "at input", "after add"])
@pytest.mark.parametrize("opset", (11, 14, 17))
def test_batch_normalization_everywhere(positions, opset):
    constants = {
        "w": random(5, 4, 3, 3),
        **batch_norm("bn1", 5),
        **batch_norm("bn2_", 5),
        **batch_norm("bn", 4),
    }
    chains = {
        "before": ["conv", "bn1", "relu"],
        "after": ["conv", "relu", "bn1"],
        "both": ["conv", "bn1", "relu", "bn2_"],
        "after pool": ["conv", "relu", "pool", "bn1"],
        "at input": ["bn", "conv", "relu"],
        "after add": ["conv", "double", "relu", "bn1"],
    }
    nodes, source = [], "x"
    chain = chains[positions]
    for index, step in enumerate(chain):
        target = "y" if index == len(chain) - 1 else f"t{index}"
        if step.startswith("bn"):
            nodes.append(batch_norm_node(source, step, target))
        elif step == "conv":
            nodes.append(make("Conv", [source, "w"], [target], pads=[1, 1, 1, 1]))
        elif step == "pool":
            nodes.append(make("AveragePool", [source], [target], kernel_shape=[2, 2]))
        elif step == "double":
            nodes.append(make("Add", [source, source], [target]))
        else:
            nodes.append(make("Relu", [source], [target]))
        source = target
    graph = check_against_oracle(model_bytes(nodes, constants, IMAGE, opset=opset))
    expected = {"after pool": 2, "at input": 2, "after add": 3}
    assert len(graph.nodes) == expected.get(positions, 1)


@pytest.mark.parametrize("target", [[0, -1], [-1, 288], [0, 288], [6, 288], [6, -1]])
@pytest.mark.parametrize("batch", ["N", 6, -1, 0, None])
def test_flattening_reshapes(target, batch):
    nodes = [make("Reshape", ["x", "shape"], ["f"]), make("Gemm", ["f", "w"], ["y"])]
    constants = {"shape": np.array(target), "w": random(288, 3)}
    data, free = (model_bytes(nodes, constants, [size, *IMAGE[1:]]) for size in (batch, "N"))
    assert kinds(check_against_oracle(data, batch=6, oracle_data=free)) == ["reshape", "linear"]


@pytest.mark.parametrize("opset", (11, 13, 21))
def test_reshape_to_a_computed_shape(opset):
    """x.view(x.size(0), -1) as the legacy exporter of torch writes it."""
    unsqueeze = {"axes": [0]} if opset < 13 else {}
    nodes = [
        make("Shape", ["x"], ["s"]),
        make("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(0))),
        make("Gather", ["s", "zero"], ["n"], axis=0),
        make("Unsqueeze", ["n"] if opset < 13 else ["n", "axes"], ["n1"], **unsqueeze),
        make("Constant", [], ["minus"], value=numpy_helper.from_array(np.array([-1]))),
        make("Concat", ["n1", "minus"], ["target"], axis=0),
        make("Reshape", ["x", "target"], ["f"]),
        make("Gemm", ["f", "w"], ["y"]),
    ]
    constants = {"w": random(288, 3)} | ({} if opset < 13 else {"axes": np.array([0])})
    check_against_oracle(model_bytes(nodes, constants, IMAGE, opset=opset))


def test_weights_behind_constant_operators_and_other_float_types():
    nodes = [
        make("Cast", ["half"], ["single"], to=TensorProto.FLOAT),
        make("Transpose", ["single"], ["transposed"], perm=[1, 0]),
        make("Identity", ["transposed"], ["w"]),
        make("Gemm", ["x", "w"], ["m"]),
        make("Reshape", ["b", "shape"], ["bias"]),
        make("Add", ["m", "bias"], ["y"]),
    ]
    constants = {"half": random(3, 7).astype(np.float16), "b": random(1, 3, 1), "shape": np.array([3])}
    assert kinds(check_against_oracle(model_bytes(nodes, constants, ["N", 7]))) == ["linear"]


def test_normalisation_written_out_at_the_input():
    nodes = [
        make("Sub", ["x", "mean"], ["s"]),
        make("Div", ["s", "std"], ["d"]),
        make("Mul", ["two", "d"], ["m"]),
        make("Conv", ["m", "w"], ["y"]),
    ]
    constants = {
        "mean": random(1, 4, 1, 1),
        "std": np.abs(random(4, 1, 1)) + 1,
        "two": np.array(2, dtype=np.float32),
        "w": random(3, 4, 3, 3),
    }
    assert kinds(check_against_oracle(model_bytes(nodes, constants, IMAGE))) == ["conv2d"]


def test_constant_minus_activation():
    nodes = [make("Sub", ["one", "x"], ["y"])]
    check_against_oracle(model_bytes(nodes, {"one": np.array(1, dtype=np.float32)}, ["N", 7]))


def test_residual_with_shared_weights_identity_and_dropout():
    nodes = [
        make("Conv", ["x", "w", "b"], ["c1"]),
        make("Relu", ["c1"], ["r1"]),
        make("Conv", ["r1", "w", "b"], ["c2"]),
        make("Dropout", ["c2"], ["d"]),
        make("Add", ["d", "r1"], ["a"]),
        make("Relu", ["a"], ["r"]),
        make("Identity", ["r"], ["y"]),
    ]
    graph = check_against_oracle(model_bytes(nodes, {"w": random(4, 4, 1, 1), "b": random(4)}, IMAGE))
    assert kinds(graph) == ["conv2d", "conv2d", "add"]


def test_batch_normalization_of_a_flattened_image():
    """The gain varies within a channel, so only the layer behind can take it."""
    nodes = [
        make("Conv", ["x", "c"], ["i"]),
        make("Flatten", ["i"], ["f"]),
        batch_norm_node("f", "bn", "n"),
        make("Gemm", ["n", "w"], ["y"]),
    ]
    constants = {"c": random(4, 4, 1, 1), "w": random(288, 3), **batch_norm("bn", 288)}
    assert kinds(check_against_oracle(model_bytes(nodes, constants, IMAGE))) == [
        "conv2d",
        "reshape",
        "linear",
    ]


def test_awkward_names_are_kept():
    nodes = [make("Relu", ["x"], ["t; */ \n\"'"], name='evil"*/\\'), make("Relu", ["t; */ \n\"'"], ["y"])]
    graph = check_against_oracle(model_bytes(nodes, {}, ["N", 7]))
    assert graph.nodes[0].name == 'evil"*/\\'
    assert graph.nodes[0].source == 'Relu "evil"*/\\"'

"""Small ONNX models for tests, and ONNX Runtime as the float oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from deployq.frontends.onnx import load_onnx_bytes
from deployq.graph import Graph, run_graph
from deployq.passes import simplify

Dims = Sequence[int | str | None]
IR_VERSION = 8


def model_bytes(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    dims: Dims,
    *,
    opset: int = 17,
    ir_version: int = IR_VERSION,
    constants_as_inputs: bool = False,
) -> bytes:
    """A model from tensor "x" to tensor "y"."""
    return build(nodes, constants, dims, opset, ir_version, constants_as_inputs).SerializeToString()


def build(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    dims: Dims,
    opset: int = 17,
    ir_version: int = IR_VERSION,
    constants_as_inputs: bool = False,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)]
    if constants_as_inputs:
        inputs += [
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in initializers
        ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    output.type.tensor_type.shape.SetInParent()
    graph = helper.make_graph(list(nodes), "test", inputs, [output], initializers)
    del graph.output[0].type.tensor_type.shape.dim[:]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    _set_output_rank(model)
    return model


def _set_output_rank(model: onnx.ModelProto) -> None:
    """Give the output the rank that shape inference finds; the checker insists on a shape."""
    model.graph.output[0].type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
        rank = len(inferred.graph.output[0].type.tensor_type.shape.dim)
    except Exception:  # hostile test models have no rank to find
        rank = 0
    shape = model.graph.output[0].type.tensor_type.shape
    shape.SetInParent()
    for _ in range(rank or 2):
        shape.dim.add()


def oracle(data: bytes, batch: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def check_against_oracle(data: bytes, batch: int = 3, oracle_data: bytes = b"") -> Graph:
    """Import, simplify, compare both graphs with ONNX Runtime; returns the simplified graph.

    `oracle_data` is what ONNX Runtime gets instead, where it refuses a form that deployq reads.
    """
    graph = load_onnx_bytes(data, "test").graph
    samples = random_batch(batch, graph.tensors[graph.input].shape)
    expected = oracle(oracle_data or data, samples)
    simple = simplify(graph)
    for candidate in (graph, simple):
        np.testing.assert_allclose(run_graph(candidate, samples), expected, rtol=1e-4, atol=1e-4)
    assert all(node.op.kind != "affine" for node in simple.nodes)
    return simple


def random_batch(count: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, *shape)).astype(np.float32)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batch_norm(prefix: str, channels: int) -> dict[str, Any]:
    """Constants of a BatchNormalization whose gains have both signs."""
    rng = np.random.default_rng(len(prefix) + channels)
    return {
        f"{prefix}.scale": rng.normal(size=channels).astype(np.float32),
        f"{prefix}.bias": rng.normal(size=channels).astype(np.float32),
        f"{prefix}.mean": rng.normal(size=channels).astype(np.float32),
        f"{prefix}.var": rng.uniform(0.5, 2, size=channels).astype(np.float32),
    }


def batch_norm_node(source: str, prefix: str, output: str) -> onnx.NodeProto:
    names = [f"{prefix}.{part}" for part in ("scale", "bias", "mean", "var")]
    return helper.make_node("BatchNormalization", [source, *names], [output])

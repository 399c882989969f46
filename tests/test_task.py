"""What is taken for a classifier, and that a regression is not ruined by being taken for one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deployq import BuildConfig
from deployq.calibration import calibrated
from deployq.errors import UsageError
from deployq.graph import run_graph
from deployq.layerwise import dequantize
from deployq.post_training import quantized
from deployq.steps import prepare
from deployq.verify.reference import run_reference


def save_regression(path: str) -> None:
    """20 inputs, 48 hidden values, 3 outputs far from zero."""
    rng = np.random.default_rng(0)
    arrays = {
        "w1": rng.normal(size=(48, 20)) / 4,
        "b1": rng.normal(size=48) / 4,
        "w2": rng.normal(size=(3, 48)),
        "b2": np.array([5.0, -3.0, 8.0]),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "regression",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), path)


@pytest.mark.parametrize("bits", ["1", "2"])
def test_tuning_does_not_ruin_a_regression_of_several_values(bits: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = str(tmp_path / "regression.onnx")
    save_regression(path)
    rng = np.random.default_rng(1)
    samples, others = rng.normal(size=(2, 500, 20)).astype(np.float32)

    def error(**settings: object) -> float:
        config = BuildConfig(bits=bits, **settings)  # type: ignore[arg-type]
        prepared = prepare(path, samples, config)
        calibration = calibrated(prepared.graph, prepared.samples, None, config, lambda message: None)
        network = quantized(calibration, config, lambda message: None)
        real = run_graph(prepared.graph, others)
        source, target = (
            network.graph.tensors[name].quantization for name in (network.graph.input, network.graph.output)
        )
        assert source is not None and target is not None
        codes = np.clip(np.floor(others / source.scale + 0.5) + source.zero_point, -128, 127).astype(np.int8)
        found = dequantize(run_reference(network.graph, codes), target)
        return float(((found - real) ** 2).sum() / ((real - real.mean(axis=0)) ** 2).sum())

    assert error() <= 1.02 * error(tune=0)


@pytest.mark.parametrize("options", [{}, {"bits": "auto", "average_bits": 2.0}])
def test_a_network_without_weights(options: dict[str, object], tmp_path) -> None:  # type: ignore[no-untyped-def]
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("GlobalAveragePool", ["r"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "weightless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 1, 1])],
    )
    path = str(tmp_path / "weightless.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), path)
    config = BuildConfig(**options)  # type: ignore[arg-type]
    samples = np.random.default_rng(0).normal(size=(200, 3, 8, 8)).astype(np.float32)
    prepared = prepare(path, samples, config)
    calibration = calibrated(prepared.graph, prepared.samples, None, config, lambda message: None)
    if options:
        with pytest.raises(UsageError, match="no weights"):
            quantized(calibration, config, lambda message: None)
    else:
        network = quantized(calibration, config, lambda message: None)
        assert any("no weights" in note for note in network.notes)

"""The model of an output directory: what ONNX Runtime takes, and what is refused as damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deployq.errors import UsageError
from deployq.finished_build import FinishedBuild
from deployq.finished_model import FILE, read_finished_model
from deployq.verify.executors import TracedLayer
from tests.report.test_report import REPORT

BUILD = FinishedBuild(REPORT, np.zeros((2, 4), np.int8), np.zeros((2, 4), np.int8))


def _model(layers: object = (("max", "y", 2),)) -> onnx.ModelProto:
    """A model y = max(x, x)."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.INT8, ["N", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Max", ["x", "x"], ["y"])], "net", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"c_layers": layers if isinstance(layers, str) else json.dumps(layers)})
    return model


def _write(directory: Path, model: onnx.ModelProto) -> None:
    (directory / FILE).write_bytes(model.SerializeToString())


def test_a_whole_one(tmp_path: Path) -> None:
    _write(tmp_path, _model())
    assert read_finished_model(tmp_path, BUILD).layers == (TracedLayer("max", "y", 2),)


@pytest.mark.parametrize(
    "layers",
    ["{}", "3", "[3]", '["abc"]', '[["a", "y"]]', '[["a", "y", 0]]', '[["a", 1, 1]]', "[" * 100_000, "{"],
    ids=lambda text: text[:20],
)
def test_layers_of_another_structure(layers: str, tmp_path: Path) -> None:
    _write(tmp_path, _model(layers))
    with pytest.raises(UsageError, match="not a complete output directory"):
        read_finished_model(tmp_path, BUILD)


def _without_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def test_no_layers(tmp_path: Path) -> None:
    model = _model()
    _without_metadata(model)
    _write(tmp_path, model)
    with pytest.raises(UsageError, match="c_layers"):
        read_finished_model(tmp_path, BUILD)


def _unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Foo"


def _no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


def _other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "z"


def _other_type(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT


def _other_tensor(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"c_layers": '[["max", "elsewhere", 1]]'})


def _other_rows(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"c_layers": '[["max", "y", 3]]'})


@pytest.mark.parametrize(
    "change", [_unknown_operator, _no_nodes, _other_input, _other_type, _other_tensor, _other_rows]
)
def test_what_the_runtime_refuses(
    change: Callable[[onnx.ModelProto], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = _model()
    change(model)
    _write(tmp_path, model)
    with pytest.raises(UsageError, match="damaged") as caught:
        read_finished_model(tmp_path, BUILD)
    assert caught.value.why and "\n" not in caught.value.why
    assert capfd.readouterr() == ("", "")


def test_an_output_of_another_size(tmp_path: Path) -> None:
    _write(tmp_path, _model())
    with pytest.raises(UsageError, match="not int8 of 5 values"):
        read_finished_model(tmp_path, replace(BUILD, expected=np.zeros((2, 5), np.int8)))

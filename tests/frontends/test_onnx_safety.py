"""Hostile and broken files: one clear ModelError each, no hang, no large allocation."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deployq.errors import ModelError
from deployq.frontends import onnx as importer
from deployq.frontends import onnx_safety
from deployq.frontends.onnx import load_onnx, load_onnx_bytes
from tests.frontends.models import build, random

make = helper.make_node
MEBIBYTE = 2**20


def gemm() -> onnx.ModelProto:
    return build([make("Gemm", ["x", "w"], ["y"])], {"w": random(7, 3)}, ["N", 7])


def conv(**attributes: object) -> onnx.ModelProto:
    return build([make("Conv", ["x", "w"], ["y"], **attributes)], {"w": random(4, 4, 3, 3)}, ["N", 4, 8, 8])


def pool(**attributes: object) -> onnx.ModelProto:
    return build([make("AveragePool", ["x"], ["y"], **attributes)], {}, ["N", 4, 8, 8])


def with_weight(change: Callable[[onnx.TensorProto], None]) -> onnx.ModelProto:
    model = gemm()
    change(model.graph.initializer[0])
    return model


def external(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def dims(*sizes: int) -> Callable[[onnx.TensorProto], None]:
    def change(tensor: onnx.TensorProto) -> None:
        del tensor.dims[:]
        tensor.dims.extend(sizes)

    return change


def raw(change: Callable[[bytes], bytes]) -> Callable[[onnx.TensorProto], None]:
    def apply(tensor: onnx.TensorProto) -> None:
        tensor.raw_data = change(tensor.raw_data)

    return apply


def one_value(value: float) -> Callable[[onnx.TensorProto], None]:
    return raw(lambda data: np.float32(value).tobytes() + data[4:])


def typed_and_short(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 20)


def cycle() -> onnx.ModelProto:
    nodes = [make("Add", ["x", "b"], ["a"]), make("Relu", ["a"], ["b"]), make("Relu", ["b"], ["y"])]
    return build(nodes, {}, ["N", 7])


def loop() -> onnx.ModelProto:
    body = helper.make_graph([make("Identity", ["c"], ["d"])], "body", [], [])
    return build([make("Loop", ["", "", "x"], ["y"], body=body)], {}, ["N", 7])


def condition() -> onnx.ModelProto:
    branch = helper.make_graph([make("Identity", ["x"], ["z"])], "branch", [], [])
    nodes = [make("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    return build(nodes, {"c": np.array(True)}, ["N", 7])


def functions() -> onnx.ModelProto:
    model = gemm()
    body = [make("f", ["a"], ["b"], domain="local")]
    model.functions.append(
        helper.make_function("local", "f", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    return model


def constant_of_shape() -> onnx.ModelProto:
    nodes = [make("ConstantOfShape", ["s"], ["c"]), make("Relu", ["x"], ["y"])]
    return build(nodes, {"s": np.array([2**20, 2**12])}, ["N", 7])


def expand() -> onnx.ModelProto:
    nodes = [make("Expand", ["one", "s"], ["c"]), make("Relu", ["x"], ["y"])]
    return build(nodes, {"one": np.ones(1, np.float32), "s": np.array([2**20, 2**12])}, ["N", 7])


def broadcast() -> onnx.ModelProto:
    nodes = [make("Add", ["a", "b"], ["c"]), make("Relu", ["x"], ["y"])]
    return build(nodes, {"a": random(40000, 1), "b": random(1, 40000)}, ["N", 7])


def gather() -> onnx.ModelProto:
    nodes = [make("Gather", ["a", "i"], ["c"]), make("Relu", ["x"], ["y"])]
    return build(nodes, {"a": random(1, 40000), "i": np.zeros(40000, np.int64)}, ["N", 7])


def doubling() -> onnx.ModelProto:
    nodes = [make("Concat", [f"c{step}"] * 2, [f"c{step + 1}"], axis=0) for step in range(30)]
    return build([*nodes, make("Relu", ["x"], ["y"])], {"c0": random(64)}, ["N", 7])


def many_constants() -> onnx.ModelProto:
    nodes = [make("Add", ["a", "a"], [f"c{index}"]) for index in range(300)]
    return build([*nodes, make("Relu", ["x"], ["y"])], {"a": random(2**18)}, ["N", 7])


def smallest_by_minus_one() -> onnx.ModelProto:
    nodes = [make("Div", ["a", "b"], ["c"]), make("Relu", ["x"], ["y"])]
    constants = {"a": np.array([-(2**31), 7], np.int32), "b": np.array([-1, 0], np.int32)}
    return build(nodes, constants, ["N", 7])


def foreign() -> onnx.ModelProto:
    return build([make("Gemm", ["x", "w"], ["y"], domain="com.example")], {"w": random(7, 3)}, ["N", 7])


def computed_twice() -> onnx.ModelProto:
    return build([make("Relu", ["x"], ["y"]), make("Relu", ["x"], ["y"])], {}, ["N", 7])


def undefined() -> onnx.ModelProto:
    return build([make("Add", ["x", "nowhere"], ["y"])], {}, ["N", 7])


def sparse() -> onnx.ModelProto:
    model = gemm()
    values, indices = numpy_helper.from_array(random(1), "s"), numpy_helper.from_array(np.array([0]), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [7]))
    return model


def infinite_attribute() -> onnx.ModelProto:
    return build([make("Gemm", ["x", "w"], ["y"], alpha=float("inf"))], {"w": random(7, 3)}, ["N", 7])


def infinite_bias() -> onnx.ModelProto:
    constants = {"w": random(7, 3), "b": np.array([np.inf], np.float32)}
    return build([make("Gemm", ["x", "w", "b"], ["y"])], constants, ["N", 7])


def no_outputs() -> onnx.ModelProto:
    return build([make("MatMul", ["x", "w"], ["y"])], {"w": random(7, 0)}, ["N", 7])


def no_channels() -> onnx.ModelProto:
    return build([make("Conv", ["x", "w"], ["y"])], {"w": random(0, 4, 3, 3)}, ["N", 4, 8, 8])


ATTACKS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "external data": (lambda: with_weight(external), "another file"),
    "negative dimension": (lambda: with_weight(dims(7, -3)), "negative dimension"),
    "huge dimension": (lambda: with_weight(dims(2**40)), "does not have the size"),
    "overflowing dimensions": (lambda: with_weight(dims(2**32, 2**32, 2**32)), "does not have the size"),
    "raw data too short": (lambda: with_weight(raw(lambda data: data[:-4])), "does not have the size"),
    "raw data too long": (lambda: with_weight(raw(lambda data: data + b"1234")), "does not have the size"),
    "typed data too short": (lambda: with_weight(typed_and_short), "does not have the size"),
    "NaN": (lambda: with_weight(one_value(np.nan)), "NaN"),
    "infinity": (lambda: with_weight(one_value(np.inf)), "NaN"),
    "infinite attribute": (infinite_attribute, "not finite"),
    "infinite scalar bias": (infinite_bias, "not finite"),
    "cycle": (cycle, "cycle"),
    "computed twice": (computed_twice, "computed twice"),
    "undefined tensor": (undefined, "not defined"),
    "Loop": (loop, 'Loop "Loop_0"'),
    "If": (condition, 'If "If_0"'),
    "functions": (functions, "functions"),
    "foreign domain": (foreign, "com.example"),
    "sparse initialiser": (sparse, "sparse"),
    "ConstantOfShape": (constant_of_shape, "ConstantOfShape"),
    "Expand": (expand, "Expand"),
    "broadcast": (broadcast, "at most"),
    "gather": (gather, "at most"),
    "doubling": (doubling, "at most"),
    "many constants": (many_constants, "exceed"),
    "integer division": (smallest_by_minus_one, "by zero"),
    "group 0": (lambda: conv(group=0), "0 groups"),
    "stride 0": (lambda: conv(strides=[0, 1]), "tride"),
    "huge pads": (lambda: conv(pads=[2**40] * 4, strides=[2**40] * 2), ""),
    "huge pads of a pool": (lambda: pool(kernel_shape=[3, 3], pads=[2**20] * 4, strides=[2**20] * 2), ""),
    "huge output": (lambda: conv(pads=[4000] * 4), "too large"),
    "kernel larger than the input": (lambda: pool(kernel_shape=[9, 9]), ""),
    "windows that overlap": (lambda: pool(kernel_shape=[1500, 1500], pads=[750] * 4), "too large to be run"),
    "weights without outputs": (no_outputs, "it is empty"),
    "convolution without outputs": (no_channels, "it is empty"),
    "wide pads and kernel": (lambda: pool(kernel_shape=[4000, 4000], pads=[3999] * 4), "too large"),
}


def refused(load: Callable[[], object]) -> ModelError:
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as caught:
            load()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 400 * MEBIBYTE
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused(name, tmp_path):
    model, message = ATTACKS[name]
    path = tmp_path / "evil.onnx"
    path.write_bytes(model().SerializeToString())
    error = refused(lambda: load_onnx(path))
    assert message in str(error) and "evil.onnx" in error.where


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"not a model",
        gemm().SerializeToString()[:-20],
        build([make("Relu", ["x"], ["y"], name="NAME")], {}, ["N", 7])
        .SerializeToString()
        .replace(b"NAME", b"N\xffME"),
        onnx.ModelProto().SerializeToString(),
        onnx.ModelProto(ir_version=8).SerializeToString(),
    ],
)
def test_files_that_are_no_models(data, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(data)
    refused(lambda: load_onnx(path))


def test_file_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_safety, "LARGEST_FILE", 2**20)
    path = tmp_path / "large.onnx"
    path.write_bytes(b"\0" * (2**20 + 1))
    assert "larger than 1 MiB" in str(refused(lambda: load_onnx(path)))


def relus(count: int, name: str) -> bytes:
    """A chain of operators of the same name."""
    tensors = ["x", *(f"t{index}" for index in range(count - 1)), "y"]
    nodes = [make("Relu", [tensors[i]], [tensors[i + 1]], name=name) for i in range(count)]
    return build(nodes, {}, ["N", 7]).SerializeToString()


def test_nodes_of_one_name_get_names_in_linear_time(monkeypatch):
    class Counting(str):
        """Counts how often a name made of it is tried."""

        tried = 0

        def __format__(self, spec: str) -> str:
            Counting.tried += 1
            return str(self)

    node = onnx_safety.ModelNode("r_3", "Relu", (), (), {})
    same = [replace(node, name=Counting("r")) for _ in range(500)]
    names = [named.name for named in onnx_safety._named([node, *same])]
    assert names[:5] == ["r_3", "r", "r_2", "r_4", "r_5"] and len(set(names)) == 501
    assert Counting.tried == 500


def test_nodes_are_ordered_in_linear_time():
    class Counting(str):
        """Counts how often names are looked up."""

        looked_up = 0

        def __hash__(self) -> int:
            Counting.looked_up += 1
            return super().__hash__()

    names = [Counting(f"t{index}") for index in range(1001)]
    nodes = [
        onnx_safety.ModelNode(f"n{index}", "Relu", (names[index],), (names[index + 1],), {})
        for index in reversed(range(1000))
    ]
    assert onnx_safety._order(nodes, {names[0]}, "chain") == list(reversed(range(1000)))
    assert 1000 < Counting.looked_up < 12_000


def test_too_many_nodes_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr(onnx_safety, "LARGEST_NODE_COUNT", 20)
    monkeypatch.setattr(onnx_safety, "_node", None)
    with pytest.raises(ModelError, match="21 nodes, at most 20"):
        load_onnx_bytes(relus(21, "n"), "long")


def test_too_many_operators_are_refused_while_they_are_read(monkeypatch):
    read: list[object] = []
    monkeypatch.setattr(importer, "LARGEST_GRAPH", 20)
    monkeypatch.setattr(importer, "_check_finite", read.append)
    with pytest.raises(ModelError, match="more than 20 operators"):
        load_onnx_bytes(relus(50, "n"), "long")
    assert len(read) == 21


def test_random_damage_never_escapes_as_another_error():
    """Every flipped byte either still gives a graph or one ModelError."""
    nodes = [
        make("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        make("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]),
        make("Reshape", ["p", "s"], ["f"]),
        make("Gemm", ["f", "g"], ["y"], transB=1),
    ]
    constants = {"w": random(2, 1, 3, 3), "s": np.array([-1, 18]), "g": random(3, 18)}
    data = build(nodes, constants, ["N", 1, 4, 4]).SerializeToString()
    rng = np.random.default_rng(0)
    outcomes = {"graph": 0, "error": 0}
    for _ in range(600):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = rng.integers(256)
        try:
            load_onnx_bytes(bytes(damaged), "damaged")
            outcomes["graph"] += 1
        except ModelError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 50

"""Activation ranges and the quantizations chosen from them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.calibrate import RangeMethod, calibrate, quantization_of_range
from deployq.errors import UsageError
from deployq.graph import Graph, Node, Quantization, Tensor
from deployq.ops.add import Add
from deployq.ops.clip import Clip
from deployq.ops.linear import Linear


def _network() -> Graph:
    rng = np.random.default_rng(0)
    linear = Linear(rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=6))
    nodes = (Node("fc", linear, ("x",), "h"), Node("relu", Clip(0.0, np.inf), ("h",), "y"))
    tensors = {"x": Tensor("x", (4,)), "h": Tensor("h", (6,)), "y": Tensor("y", (6,))}
    return Graph("net", "x", "y", nodes, tensors)


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_ranges_are_covered_and_zero_is_exact(first: float, second: float) -> None:
    low, high = sorted((first, second))
    quantization = quantization_of_range(low, high)
    reach = ((np.array([-128, 127]) - quantization.zero_point) * quantization.scale).tolist()
    assert reach[0] <= low + 0.51 * quantization.scale
    assert reach[1] >= high - 0.51 * quantization.scale


def test_a_clip_gets_all_codes() -> None:
    graph = _network()
    batch = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    found = calibrate(graph, lambda: [batch], RangeMethod(), None)
    assert found["h"] == found["y"]
    both_read = graph.with_nodes([*graph.nodes, Node("sum", Add(), ("h", "y"), "z")], output="z")
    found = calibrate(both_read, lambda: [batch], RangeMethod(), None)
    assert found["h"] != found["y"]


def test_minmax_sees_every_batch() -> None:
    graph = _network()
    batches = [np.zeros((2, 4), np.float32), np.array([[1, 0, 0, -3]], np.float32)]
    found = calibrate(graph, lambda: batches, RangeMethod("minmax"), None)
    assert found["x"] == quantization_of_range(-3, 1)
    outputs = np.concatenate([graph.nodes[0].op.run([batch]) for batch in batches])
    assert found["y"] == quantization_of_range(0.0, float(outputs.max()))
    assert found["y"].zero_point == -128


def test_the_input_may_be_fixed() -> None:
    fixed = Quantization(1.0, -128)
    found = calibrate(_network(), lambda: [np.ones((1, 4), np.float32)], RangeMethod(), fixed)
    assert found["x"] == fixed


def test_percentile_ignores_outliers() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(5000, 4)).astype(np.float32)
    values[0, 0] = 200.0
    wide = calibrate(_network(), lambda: [values], RangeMethod("minmax"), None)["x"].scale
    narrow = calibrate(_network(), lambda: [values], RangeMethod("percentile", 99.9), None)["x"].scale
    assert narrow < wide / 3


def test_mse_is_no_worse_than_minmax() -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_t(4, size=(4000, 4)).astype(np.float32)

    def error(method: str) -> float:
        q = calibrate(_network(), lambda: [values], RangeMethod(method), None)["x"]
        codes = np.clip(np.floor(values / q.scale + q.zero_point + 0.5), -128, 127)
        return float(np.mean(((codes - q.zero_point) * q.scale - values) ** 2))

    assert error("mse") <= error("minmax") * 1.001


def test_overflowing_network_is_refused() -> None:
    huge = np.array([[3e38, 3e38, -3e38, 3e38]], np.float32)
    with warnings.catch_warnings(), pytest.raises(UsageError, match="NaN or infinity"):
        warnings.simplefilter("error")  # numpy's would be printed before the error
        calibrate(_network(), lambda: [huge], RangeMethod(), None)


@pytest.mark.parametrize(
    ("name", "percentile"), [("median", 99.0), ("percentile", 20.0), ("percentile", 101.0)]
)
def test_methods_are_checked(name: str, percentile: float) -> None:
    with pytest.raises(UsageError):
        RangeMethod(name, percentile)

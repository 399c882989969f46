"""Warnings about networks and samples that are allowed, but hardly meant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deployq.config import BuildConfig
from deployq.data import Preprocessing, Samples
from deployq.doubts import doubts
from deployq.graph import Graph, Node, Tensor
from deployq.ops.linear import Linear
from deployq.steps import Prepared, quantize_prepared

RNG = np.random.default_rng(0)
SAMPLES = Samples(RNG.normal(size=(300, 4)).astype(np.float32), Preprocessing())
EQUAL = replace(SAMPLES, raw=np.repeat(SAMPLES.raw[:1], 300, axis=0))


def _network(weight: object) -> Graph:
    values = np.asarray(weight, dtype=np.float32)
    node = Node("fc", Linear(values, np.zeros(len(values))), ("x",), "y")
    return Graph("net", "x", "x", (), {"x": Tensor("x", (4,))}).with_nodes([node], output="y")


def test_usual_networks_and_samples() -> None:
    network = _network(RNG.normal(size=(3, 4)))
    assert doubts(network, SAMPLES) == ()
    assert doubts(network, replace(EQUAL, raw=EQUAL.raw[:1])) == ()
    last = EQUAL.raw.copy()
    last[-1, 0] += 1
    assert doubts(network, replace(EQUAL, raw=last)) == ()


def test_equal_samples_and_zero_weights() -> None:
    weights, samples = doubts(_network(np.zeros((3, 4))), EQUAL)
    assert weights.startswith("all weights of fc are zero") and samples.startswith("all 300 calibration")


def test_the_quantized_network_carries_them() -> None:
    prepared = Prepared(_network(np.zeros((3, 4))), "", EQUAL, None, EQUAL.preprocessing)
    network = quantize_prepared(prepared, BuildConfig(method="msq"))
    assert network.warnings == doubts(prepared.graph, EQUAL)

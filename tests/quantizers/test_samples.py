"""Layers solved on their samples: the same as on products, without a matrix of all inputs."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.errors import ModelError, UsageError
from deployq.quantizers import method
from deployq.quantizers.inputs import InputStatistics
from deployq.quantizers.layer import LayerSolution, quantize_layer
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.registry import Problem, traits_of
from deployq.quantizers.samples import SampleAccumulator, SampleStatistics
from tests.quantizers.layers import Array, Layer, random_layer

METHODS = ("gpfq", "sparse-gpfq", "spfq")
PAIRS = [
    (name, letters)
    for name in METHODS
    for letters in ("binary", "midrise-2", "midtread-3")
    if name != "sparse-gpfq" or 0 in alphabet(letters).values
]
every_pair = pytest.mark.parametrize(("name", "letters"), PAIRS)


def samples_of(layer: Layer, chunks: int = 1) -> SampleStatistics:
    groups, samples, inputs = layer.quantized.shape
    accumulator = SampleAccumulator(groups, inputs, samples)
    for part in np.array_split(np.arange(samples), chunks):
        quantized = layer.quantized[:, part]
        analog = quantized if layer.analog is layer.quantized else layer.analog[:, part]
        accumulator.update(quantized, analog)
    return accumulator.finish()


def solved(
    layer: Layer,
    statistics: InputStatistics,
    name: str,
    letters: str,
    granularity: str = "channel",
    order: str = "natural",
) -> LayerSolution:
    groups, _, channels = layer.weights.shape
    bias = np.linspace(-1, 1, groups * channels)
    options = SolverOptions(order=order, seed=(3, 5))
    return quantize_layer(layer.flat_weights, bias, statistics, alphabet(letters), name, granularity, options)


def assert_same(layer: Layer, name: str, letters: str, **how: str) -> None:
    """The solution on samples is the one on products."""
    by_products = solved(layer, layer.statistics(), name, letters, **how)
    by_samples = solved(layer, samples_of(layer), name, letters, **how)
    np.testing.assert_array_equal(by_samples.levels, by_products.levels)
    np.testing.assert_allclose(by_samples.scales, by_products.scales, rtol=1e-9)
    np.testing.assert_allclose(by_samples.bias, by_products.bias, atol=1e-9)
    assert by_samples.relative_error == pytest.approx(by_products.relative_error, abs=1e-6)


def test_the_methods_that_take_samples() -> None:
    assert tuple(name for name in METHODS if traits_of(name).on_samples) == METHODS
    layer = random_layer(0, 9, 2, 4)
    for name in ("gptq", "qronos", "maly-saab"):
        assert not traits_of(name).on_samples
        with pytest.raises(ValueError, match="only the samples"):
            method(name)(Problem(samples_of(layer), layer.weights, alphabet("ternary")))


@every_pair
@pytest.mark.parametrize("granularity", ["channel", "layer"])
@pytest.mark.parametrize("order", ["natural", "descending"])
@pytest.mark.parametrize("noise", [0, 0.2])
def test_the_solution_is_that_of_the_products(
    name: str, letters: str, granularity: str, order: str, noise: float
) -> None:
    layer = random_layer(1, 150, 3, 20, noise=noise)
    assert_same(layer, name, letters, granularity=granularity, order=order)


@every_pair
def test_groups(name: str, letters: str) -> None:
    assert_same(random_layer(2, 12, 2, 5, groups=6), name, letters)


@every_pair
def test_dead_inputs(name: str, letters: str) -> None:
    layer = random_layer(3, 100, 4, 30)
    layer.quantized[:, :, [0, 7, 99]], layer.analog[:, :, [0, 7, 98]] = 0.1, 0.1
    assert samples_of(layer).dead.sum() == 3
    assert_same(layer, name, letters)


@every_pair
def test_a_group_without_live_inputs(name: str, letters: str) -> None:
    layer = random_layer(4, 12, 2, 5, groups=3)
    layer.quantized[1], layer.analog[1] = 0.3, 0.3
    assert_same(layer, name, letters)


@every_pair
def test_only_dead_inputs(name: str, letters: str) -> None:
    layer = random_layer(4, 12, 2, 5)
    layer.quantized[:], layer.analog[:] = 0, 0
    assert solved(layer, samples_of(layer), name, letters).relative_error == 0
    assert_same(layer, name, letters)


@every_pair
def test_dead_channels(name: str, letters: str) -> None:
    layer = random_layer(5, 100, 4, 30)
    layer.weights[:, :, [0, 2]] = 0
    assert_same(layer, name, letters)


@every_pair
def test_duplicated_inputs(name: str, letters: str) -> None:
    layer = random_layer(6, 100, 4, 30)
    layer.quantized[:, :, 50:], layer.analog[:, :, 50:] = layer.quantized[:, :, :50], layer.analog[:, :, :50]
    assert_same(layer, name, letters)


@every_pair
def test_one_sample(name: str, letters: str) -> None:
    assert_same(random_layer(7, 30, 3, 1), name, letters)


def test_chunks_add_up() -> None:
    layer = random_layer(8, 40, 2, 20, groups=2)
    whole, parts = samples_of(layer), samples_of(layer, chunks=6)
    for name in ("quantized", "analog", "mean_quantized", "mean_analog", "energy"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


@pytest.mark.parametrize("first", [True, False])
def test_chunks_where_both_networks_agree(first: bool) -> None:
    layer = random_layer(9, 40, 2, 20)
    accumulator = SampleAccumulator(1, 40, 20)
    for same, part in ((first, slice(0, 10)), (not first, slice(10, 20))):
        quantized = layer.quantized[:, part]
        accumulator.update(quantized, quantized if same else layer.analog[:, part])
        if same:
            layer.analog[:, part] = quantized
    found = accumulator.finish()
    np.testing.assert_allclose(found.analog, layer.analog - layer.analog.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(found.quantized, layer.quantized - layer.quantized.mean(axis=1, keepdims=True))


def test_equal_networks_are_kept_once() -> None:
    statistics = samples_of(random_layer(10, 40, 2, 20, noise=0))
    assert statistics.analog is statistics.quantized
    order = np.argsort(-statistics.energy, axis=1)
    assert statistics.reordered(order).analog is not statistics.analog
    assert statistics.nbytes == 8 * 40 * 20


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_inputs_are_dead(dtype: type[np.floating[Any]]) -> None:
    layer = random_layer(11, 400, 1, 101)
    rows: Array = layer.analog.astype(dtype)
    rows[0, :, 1], rows[0, :, 2] = 0.1, 0.0
    rows[0, :, 3] *= 1e-9
    statistics = samples_of(Layer(rows, rows, layer.weights))
    assert np.flatnonzero(statistics.dead[0]).tolist() == [1, 2]
    assert not statistics.quantized[0, :, 1].any()


def test_not_finite() -> None:
    layer = random_layer(12, 30, 2, 10)
    layer.analog[0, 3, 4] = np.nan
    with pytest.raises(ModelError, match="its inputs are not finite"):
        solved(layer, samples_of(layer), "gpfq", "ternary")


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 5, 4)])
def test_rows_that_do_not_fit(shape: tuple[int, ...]) -> None:
    rows = np.zeros(shape)
    with pytest.raises(ValueError, match="expected two arrays"):
        SampleAccumulator(1, 3, 9).update(rows, rows)
    with pytest.raises(ValueError, match="expected two arrays"):
        SampleAccumulator(1, 3, 9).update(np.zeros((1, 5, 3)), np.zeros((1, 6, 3)))
    with pytest.raises(ValueError, match="announced"):
        SampleAccumulator(1, 3, 4).update(np.zeros((1, 5, 3)), np.zeros((1, 5, 3)))


def test_no_rows() -> None:
    with pytest.raises(UsageError, match="no calibration samples"):
        SampleAccumulator(1, 3, 0).finish()


@pytest.mark.parametrize("order", ["natural", "descending"])
def test_no_matrix_of_all_inputs_is_formed(order: str) -> None:
    inputs = 2000
    layer = random_layer(13, inputs, 2, 20)
    tracemalloc.start()
    solved(layer, samples_of(layer), "gpfq", "ternary", order=order)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * inputs**2 / 4

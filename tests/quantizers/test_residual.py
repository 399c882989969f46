from dataclasses import replace

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.quantizers import method
from deployq.quantizers.layer import quantize_layer
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.ordering import prepared
from deployq.quantizers.registry import Problem
from deployq.quantizers.residual import ResidualAccumulator
from deployq.quantizers.statistics import LayerStatistics
from tests.quantizers.layers import Array, Layer, random_layer

GROUPS, INPUTS, CHANNELS, SAMPLES = 2, 30, 3, 150


def layer_and_error(seed: int = 0) -> tuple[Layer, Array]:
    """A layer, and the error of another branch that the layer's inputs say something about."""
    layer = random_layer(seed, INPUTS, CHANNELS, SAMPLES, groups=GROUPS)
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(GROUPS, INPUTS, CHANNELS))
    return layer, layer.analog @ mixing + generator.normal(size=(GROUPS, SAMPLES, CHANNELS)) + 3


def statistics_of(layer: Layer, error: Array, chunks: int = 1) -> LayerStatistics:
    accumulator = ResidualAccumulator(GROUPS, INPUTS, CHANNELS)
    for part in np.array_split(np.arange(SAMPLES), chunks):
        accumulator.update(layer.quantized[:, part], layer.analog[:, part], error[:, part])
    return replace(layer.statistics(), residual=accumulator.finish())


def wanted_residual(layer: Layer, error: Array, levels: Array, scales: Array) -> Array:
    left = layer.analog @ layer.weights + error - layer.quantized @ (levels * scales[:, None, :])
    return np.asarray(left - left.mean(axis=1, keepdims=True))


@pytest.mark.parametrize("chunks", [1, 7])
def test_the_objective_is_the_error_of_the_sum(chunks: int) -> None:
    layer, error = layer_and_error()
    levels = np.random.default_rng(1).integers(-2, 2, size=layer.weights.shape).astype(np.float64)
    scales = np.random.default_rng(2).uniform(0.1, 1, size=(GROUPS, CHANNELS))
    objective = statistics_of(layer, error, chunks).objective(layer.weights)
    expected = (wanted_residual(layer, error, levels, scales) ** 2).sum(axis=1)
    np.testing.assert_allclose(objective.error(levels, scales), expected, rtol=1e-10)
    target = layer.analog @ layer.weights + error
    energy = ((target - target.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    np.testing.assert_allclose(objective.energy, energy, rtol=1e-10)


def test_gpfq_starts_from_the_error_of_the_branch() -> None:
    layer, error = layer_and_error(3)
    levels, scales = alphabet("midrise-2"), np.full((GROUPS, CHANNELS), 0.7)
    found = method("gpfq")(Problem(statistics_of(layer, error), layer.weights, levels))(scales)
    for group in range(GROUPS):
        centre = [
            array[group] - array[group].mean(axis=0) for array in (layer.quantized, layer.analog, error)
        ]
        quantized, analog, path = centre
        for t in range(INPUTS):
            path = path + np.outer(analog[:, t], layer.weights[group, t])
            column = quantized[:, t]
            level = levels.nearest(column @ path / (column @ column) / 0.7)
            np.testing.assert_array_equal(found[group, t], level)
            path = path - 0.7 * np.outer(column, level)


@pytest.mark.parametrize("name", ["gpfq", "qronos", "gptq", "msq"])
def test_a_layer_makes_up_for_the_branch(name: str) -> None:
    layer, error = layer_and_error(4)
    bias = np.zeros(GROUPS * CHANNELS)
    with_branch = statistics_of(layer, error)
    errors = {}
    for statistics in (with_branch, replace(with_branch, residual=None)):
        solution = quantize_layer(
            layer.flat_weights, bias, statistics, alphabet("midtread-4"), name, "channel", refine=3
        )
        levels, scales = (
            array.reshape(GROUPS, CHANNELS, -1).transpose(0, 2, 1)
            for array in (solution.levels, solution.scales)
        )
        left = wanted_residual(layer, error, levels, scales[:, 0])
        errors[statistics.residual is None] = np.linalg.norm(left)
        if statistics.residual is not None:
            target = layer.analog @ layer.weights + error
            own = wanted_residual(layer, np.zeros_like(error), levels, scales[:, 0])
            wanted = layer.analog @ layer.weights
            relative = np.linalg.norm(own) / np.linalg.norm(wanted - wanted.mean(axis=1, keepdims=True))
            assert solution.relative_error == pytest.approx(relative, rel=1e-9), "that of the layer itself"
            gap = target - layer.quantized @ (levels * scales) - solution.bias.reshape(GROUPS, 1, CHANNELS)
            np.testing.assert_allclose(gap.mean(axis=1), 0, atol=1e-9)
    assert errors[False] < 0.6 * errors[True]


@pytest.mark.parametrize("name", ["gpfq", "qronos"])
def test_the_order_of_the_inputs_moves_the_residual_along(name: str) -> None:
    layer, error = layer_and_error(5)
    statistics, scales = statistics_of(layer, error), np.full((GROUPS, CHANNELS), 0.8)
    order = np.argsort(-np.diagonal(statistics.gram, axis1=1, axis2=2), axis=1)
    by_hand = Layer(
        np.take_along_axis(layer.quantized, order[:, None, :], axis=2),
        np.take_along_axis(layer.analog, order[:, None, :], axis=2),
        np.take_along_axis(layer.weights, order[:, :, None], axis=1),
    )
    levels = alphabet("ternary")
    wanted = method(name)(Problem(statistics_of(by_hand, error), by_hand.weights, levels))(scales)
    problem = Problem(statistics, layer.weights, levels, SolverOptions(order="descending"))
    found = prepared(method(name), problem)(scales)
    np.testing.assert_array_equal(np.take_along_axis(found, order[:, :, None], axis=1), wanted)

from functools import partial

import numpy as np
import pytest

from deployq.alphabet import Alphabet, alphabet
from deployq.errors import UsageError
from deployq.quantizers import method, method_names
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.ordering import prepared
from deployq.quantizers.registry import Problem
from tests.quantizers.layers import (
    ALPHABETS,
    Array,
    Layer,
    greedy_on_samples,
    low_rank_layer,
    nearest_by_search,
    random_layer,
)

#: Inputs, channels, samples, groups: below, at and across the block boundary of the solver.
SIZES = ((1, 1, 5, 1), (7, 3, 15, 1), (128, 5, 90, 1), (301, 4, 60, 1), (9, 2, 40, 13))


def scales_of(layer: Layer, seed: int, spread: float) -> np.ndarray:
    groups, _, channels = layer.weights.shape
    return np.random.default_rng(seed).uniform(0.3, 1.0, size=(groups, channels)) * spread


@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize(("inputs", "channels", "samples", "groups"), SIZES)
@pytest.mark.parametrize("noise", [0, 0.3])
def test_gpfq_equals_the_recursion_on_the_samples(
    name: str, inputs: int, channels: int, samples: int, groups: int, noise: float
) -> None:
    layer = random_layer(inputs, inputs, channels, samples, groups=groups, noise=noise)
    levels = alphabet(name)
    scales = scales_of(layer, inputs, 2.0 / levels.largest)
    found = method("gpfq")(Problem(layer.statistics(centred=False), layer.weights, levels))(scales)
    np.testing.assert_array_equal(found, greedy_on_samples(layer, levels, scales))


def test_gpfq_on_centred_statistics_is_the_recursion_on_centred_samples() -> None:
    layer = random_layer(0, 40, 6, 100)
    centred = Layer(
        layer.quantized - layer.quantized.mean(axis=1, keepdims=True),
        layer.analog - layer.analog.mean(axis=1, keepdims=True),
        layer.weights,
    )
    levels, scales = alphabet("midrise-2"), scales_of(layer, 0, 0.8)
    found = method("gpfq")(Problem(layer.statistics(), layer.weights, levels))(scales)
    np.testing.assert_array_equal(found, greedy_on_samples(centred, levels, scales))
    assert np.any(found != greedy_on_samples(layer, levels, scales))


def test_msq_takes_the_nearest_level() -> None:
    layer, levels = random_layer(1, 20, 5, 10, groups=2), alphabet("midtread-3")
    scales = scales_of(layer, 1, 0.5)
    found = method("msq")(Problem(layer.statistics(), layer.weights, levels))(scales)
    np.testing.assert_array_equal(found, nearest_by_search(layer.weights / scales[:, None, :], levels))


@pytest.mark.parametrize("name", method_names())
def test_candidate_scales_are_independent(name: str) -> None:
    layer, levels = random_layer(2, 150, 4, 50, groups=2), alphabet("ternary")
    solve = method(name)(Problem(layer.statistics(), layer.weights, levels))
    candidates = [scales_of(layer, seed, 1.5) for seed in range(3)]
    together = solve(np.concatenate(candidates, axis=1))
    alone = [solve(scales) for scales in candidates]
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=2))


@pytest.mark.parametrize("name", method_names())
@pytest.mark.parametrize("levels", ["ternary", "midtread-4"])
def test_methods_do_not_touch_their_arguments_and_repeat_themselves(name: str, levels: str) -> None:
    layer = random_layer(3, 30, 4, 50)
    statistics, scales = layer.statistics(), scales_of(layer, 3, 0.4)
    copies = [array.copy() for array in (statistics.gram, statistics.cross, layer.weights, scales)]
    first = method(name)(Problem(statistics, layer.weights, alphabet(levels)))(scales)
    second = method(name)(Problem(statistics, layer.weights, alphabet(levels)))(scales)
    np.testing.assert_array_equal(first, second)
    for copy, array in zip(copies, (statistics.gram, statistics.cross, layer.weights, scales), strict=True):
        np.testing.assert_array_equal(copy, array)


def test_gpfq_gives_dead_inputs_the_nearest_level() -> None:
    layer = random_layer(4, 12, 3, 50)
    layer.quantized[:, :, [0, 5]] = 0
    scales = scales_of(layer, 4, 0.4)
    levels = alphabet("midtread-4")
    found = method("gpfq")(Problem(layer.statistics(), layer.weights, levels))(scales)
    nearest = nearest_by_search(layer.weights / scales[:, None, :], levels)
    np.testing.assert_array_equal(found[:, [0, 5]], nearest[:, [0, 5]])


def test_gpfq_beats_rounding() -> None:
    layer, levels = low_rank_layer(5, 200, 8, 10), alphabet("ternary")
    scales = np.full((1, 8), 1.2)
    errors = {}
    for name in ("gpfq", "msq"):
        found = method(name)(Problem(layer.statistics(centred=False), layer.weights, levels))(scales)
        residual = layer.analog @ layer.weights - layer.quantized @ (found * scales[:, None, :])
        errors[name] = np.linalg.norm(residual)
    assert errors["gpfq"] < 0.6 * errors["msq"]


def test_every_module_of_the_package_is_found() -> None:
    assert {"gpfq", "gptq", "msq", "qronos", "spfq"} <= set(method_names())


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=", ".join(method_names())) as caught:
        method("magic")
    assert caught.value.where == "--method"


def gptq_of_the_paper(hessian: Array, weights: Array, alphabet: Alphabet, scales: Array) -> Array:
    """2210.17323: the later weights are updated with rows of the Cholesky factor of the inverse."""
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    weights, levels = weights.copy(), np.empty_like(weights)
    for t in range(len(weights)):
        levels[t] = nearest_by_search(weights[t] / scales, alphabet)
        error = (weights[t] - levels[t] * scales) / factor[t, t]
        weights[t + 1 :] -= factor[t, t + 1 :, None] * error
    return levels


@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize("inputs", [1, 7, 150])
def test_gptq_equals_the_updates_of_the_paper(name: str, inputs: int) -> None:
    layer, levels = random_layer(6, inputs, 5, 400), alphabet(name)
    statistics, scales = layer.statistics(), scales_of(layer, 6, 2.0 / levels.largest)
    found = method("gptq")(Problem(statistics, layer.weights, levels))(scales)
    gram = statistics.gram[0]
    hessian = gram + 0.01 * np.diagonal(gram).mean() * np.eye(inputs)
    np.testing.assert_array_equal(found[0], gptq_of_the_paper(hessian, layer.weights[0], levels, scales[0]))


@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize("inputs", [1, 7, 150])
def test_qronos_equals_the_steps_of_the_paper(name: str, inputs: int) -> None:
    layer, levels = random_layer(7, inputs, 5, 400), alphabet(name)
    statistics, scales = layer.statistics(), scales_of(layer, 7, 2.0 / levels.largest)
    found = method("qronos")(Problem(statistics, layer.weights, levels))(scales)[0]
    gram, weights = statistics.gram[0], layer.weights[0]
    outputs = statistics.cross[0] @ weights
    first = nearest_by_search((outputs[0] - gram[0, 1:] @ weights[1:]) / gram[0, 0] / scales[0], levels)
    np.testing.assert_array_equal(found[0], first)
    if inputs > 1:
        damping = 1e-6 * np.linalg.eigvalsh(gram)[-1]
        hessian = gram[1:, 1:] + damping * np.eye(inputs - 1)
        wanted = outputs[1:] + damping * weights[1:] - np.outer(gram[1:, 0], first * scales[0])
        real = np.linalg.solve(hessian, wanted)
        np.testing.assert_array_equal(found[1:], gptq_of_the_paper(hessian, real, levels, scales[0]))


@pytest.mark.parametrize("name", [name for name in method_names() if name != "spfq"])
def test_the_order_of_the_inputs_is_undone(name: str) -> None:
    layer, levels = random_layer(8, 60, 4, 200, groups=2), alphabet("ternary")
    statistics, scales = layer.statistics(), scales_of(layer, 8, 0.8)
    energy = np.diagonal(statistics.gram, axis1=1, axis2=2)
    order = np.argsort(-energy, axis=1)
    sort = partial(np.take_along_axis, axis=2, indices=order[:, None, :])
    by_hand = Layer(
        sort(layer.quantized),
        sort(layer.analog),
        np.take_along_axis(layer.weights, order[:, :, None], axis=1),
    )
    wanted = method(name)(Problem(by_hand.statistics(), by_hand.weights, levels))(scales)
    problem = Problem(statistics, layer.weights, levels, SolverOptions(order="descending"))
    found = np.take_along_axis(prepared(method(name), problem)(scales), order[:, :, None], axis=1)
    np.testing.assert_array_equal(found, wanted)

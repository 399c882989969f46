import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.errors import UsageError
from deployq.quantizers import method, method_names
from tests.quantizers.layers import (
    ALPHABETS,
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
    found = method("gpfq")(layer.statistics(centred=False), layer.weights, levels, scales)
    np.testing.assert_array_equal(found, greedy_on_samples(layer, levels, scales))


def test_gpfq_on_centred_statistics_is_the_recursion_on_centred_samples() -> None:
    layer = random_layer(0, 40, 6, 100)
    centred = Layer(
        layer.quantized - layer.quantized.mean(axis=1, keepdims=True),
        layer.analog - layer.analog.mean(axis=1, keepdims=True),
        layer.weights,
    )
    levels, scales = alphabet("midrise-2"), scales_of(layer, 0, 0.8)
    found = method("gpfq")(layer.statistics(), layer.weights, levels, scales)
    np.testing.assert_array_equal(found, greedy_on_samples(centred, levels, scales))
    assert np.any(found != greedy_on_samples(layer, levels, scales))


def test_msq_takes_the_nearest_level() -> None:
    layer, levels = random_layer(1, 20, 5, 10, groups=2), alphabet("midtread-3")
    scales = scales_of(layer, 1, 0.5)
    found = method("msq")(layer.statistics(), layer.weights, levels, scales)
    np.testing.assert_array_equal(found, nearest_by_search(layer.weights / scales[:, None, :], levels))


@pytest.mark.parametrize("name", method_names())
def test_candidate_scales_are_independent(name: str) -> None:
    layer, levels = random_layer(2, 150, 4, 50, groups=2), alphabet("ternary")
    solve, statistics = method(name), layer.statistics()
    candidates = [scales_of(layer, seed, 1.5) for seed in range(3)]
    together = solve(statistics, layer.weights, levels, np.concatenate(candidates, axis=1))
    alone = [solve(statistics, layer.weights, levels, scales) for scales in candidates]
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=2))


@pytest.mark.parametrize("name", method_names())
@pytest.mark.parametrize("levels", [alphabet(name) for name in ALPHABETS], ids=ALPHABETS)
def test_methods_do_not_touch_their_arguments_and_repeat_themselves(name: str, levels: object) -> None:
    layer = random_layer(3, 30, 4, 50)
    statistics, scales = layer.statistics(), scales_of(layer, 3, 0.4)
    copies = [array.copy() for array in (statistics.gram, statistics.cross, layer.weights, scales)]
    first = method(name)(statistics, layer.weights, levels, scales)  # type: ignore[arg-type]
    second = method(name)(statistics, layer.weights, levels, scales)  # type: ignore[arg-type]
    np.testing.assert_array_equal(first, second)
    for copy, array in zip(copies, (statistics.gram, statistics.cross, layer.weights, scales), strict=True):
        np.testing.assert_array_equal(copy, array)


def test_gpfq_gives_dead_inputs_the_nearest_level() -> None:
    layer = random_layer(4, 12, 3, 50)
    layer.quantized[:, :, [0, 5]] = 0
    scales = scales_of(layer, 4, 0.4)
    levels = alphabet("midtread-4")
    found = method("gpfq")(layer.statistics(), layer.weights, levels, scales)
    nearest = nearest_by_search(layer.weights / scales[:, None, :], levels)
    np.testing.assert_array_equal(found[:, [0, 5]], nearest[:, [0, 5]])


def test_gpfq_beats_rounding() -> None:
    layer, levels = low_rank_layer(5, 200, 8, 10), alphabet("ternary")
    scales = np.full((1, 8), 1.2)
    errors = {}
    for name in ("gpfq", "msq"):
        found = method(name)(layer.statistics(centred=False), layer.weights, levels, scales)
        residual = layer.analog @ layer.weights - layer.quantized @ (found * scales[:, None, :])
        errors[name] = np.linalg.norm(residual)
    assert errors["gpfq"] < 0.6 * errors["msq"]


def test_every_module_of_the_package_is_found() -> None:
    assert {"gpfq", "msq"} <= set(method_names())


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="gpfq, msq") as caught:
        method("magic")
    assert caught.value.where == "--method"

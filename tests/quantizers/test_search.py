import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.quantizers import method
from deployq.quantizers.registry import Problem
from deployq.quantizers.search import search_scale, weight_error_scale
from tests.quantizers.layers import ALPHABETS, low_rank_layer, random_layer, squared_error

GRANULARITIES = ("channel", "layer")


def test_the_objective_is_the_error_on_the_samples() -> None:
    layer = random_layer(0, 20, 5, 60, groups=3)
    generator = np.random.default_rng(0)
    levels = generator.integers(-2, 2, size=layer.weights.shape).astype(np.float64)
    scales = generator.uniform(0.1, 1, size=(3, 5))
    error = layer.statistics().objective(layer.weights).error(levels, scales)
    np.testing.assert_allclose(error, squared_error(layer, levels, scales), rtol=1e-10)


def test_the_weight_error_scale_of_binary_is_the_mean_magnitude() -> None:
    weights = np.random.default_rng(1).normal(size=(2, 50, 3))
    found = weight_error_scale(weights, alphabet("binary"), "channel")
    np.testing.assert_allclose(found, np.abs(weights).mean(axis=1))


@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_weight_error_scale_is_close_to_the_best_of_a_fine_grid(name: str, granularity: str) -> None:
    weights, levels = np.random.default_rng(2).normal(size=(1, 200, 4)), alphabet(name)

    def error(scales: np.ndarray) -> np.ndarray:
        rounded = scales[:, None, :] * levels.nearest(weights / scales[:, None, :])
        per_neuron = ((weights - rounded) ** 2).sum(axis=1)
        return per_neuron if granularity == "channel" else per_neuron.sum(keepdims=True)

    grid = [error(np.full((1, 4), scale)) for scale in np.geomspace(0.005, 4, 600)]
    assert np.all(error(weight_error_scale(weights, levels, granularity)) <= 1.1 * np.min(grid, axis=0))


@pytest.mark.parametrize("solver", ["gpfq", "msq"])
@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_search_never_loses_to_its_start(solver: str, name: str, granularity: str) -> None:
    layer, levels = random_layer(3, 60, 6, 150, groups=2), alphabet(name)
    statistics, solve = layer.statistics(), method(solver)
    problem = Problem(statistics, layer.weights, levels)
    found, scales = search_scale(solve, problem, granularity)
    start = weight_error_scale(layer.weights, levels, granularity)
    started = squared_error(layer, solve(problem)(start), start)
    ended = squared_error(layer, found, scales)
    if granularity == "layer":
        assert len(np.unique(scales)) == 1
        energy = statistics.objective(layer.weights).energy
        started, ended = (started / energy).sum(), (ended / energy).sum()
    assert np.all(ended <= started * (1 + 1e-9))


def test_the_search_pays_at_one_bit() -> None:
    layer, levels = low_rank_layer(4, 300, 8, 10), alphabet("binary")
    statistics, solve = layer.statistics(), method("gpfq")
    problem = Problem(statistics, layer.weights, levels)
    found, scales = search_scale(solve, problem, "channel")
    start = weight_error_scale(layer.weights, levels, "channel")
    started = squared_error(layer, solve(problem)(start), start)
    assert squared_error(layer, found, scales).sum() < 0.8 * started.sum()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_scale_is_the_least_squares_one_for_its_levels(granularity: str) -> None:
    layer = random_layer(5, 40, 5, 100)
    problem = Problem(layer.statistics(), layer.weights, alphabet("ternary"))
    found, scales = search_scale(method("gpfq"), problem, granularity)
    energy = layer.statistics().objective(layer.weights).energy
    best = (squared_error(layer, found, scales) / energy).sum()
    for factor in (0.999, 1.001):
        assert (squared_error(layer, found, scales * factor) / energy).sum() > best


def test_a_channel_scale_is_never_worse_than_the_layer_scale_in_total() -> None:
    layer = random_layer(6, 40, 8, 100)
    layer.weights[:] *= np.geomspace(0.05, 1, 8)
    errors = {}
    for granularity in GRANULARITIES:
        problem = Problem(layer.statistics(), layer.weights, alphabet("ternary"))
        found, scales = search_scale(method("msq"), problem, granularity)
        errors[granularity] = squared_error(layer, found, scales).sum()
    assert errors["channel"] < errors["layer"]


def test_splitting_the_candidates_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = random_layer(7, 50, 6, 100)
    problem = Problem(layer.statistics(), layer.weights, alphabet("midrise-2"))
    arguments = (method("gpfq"), problem, "channel")
    whole = search_scale(*arguments)
    monkeypatch.setattr("deployq.quantizers.search._ELEMENTS_PER_CALL", 1000)
    parts = search_scale(*arguments)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-12)


def test_a_shared_scale_serves_small_neurons_as_much_as_large_ones() -> None:
    layer, levels = low_rank_layer(8, 300, 20, 10), alphabet("midrise-2")
    layer.weights[:] *= np.geomspace(0.05, 1, 20)
    statistics, solve = layer.statistics(), method("gpfq")
    problem = Problem(statistics, layer.weights, levels)
    found, scales = search_scale(solve, problem, "layer")
    energy = statistics.objective(layer.weights).energy

    def relative(shared: float) -> float:
        same = np.full_like(scales, shared)
        return float((squared_error(layer, solve(problem)(same), same) / energy).sum())

    best = min(relative(shared) for shared in np.geomspace(0.005, 4, 100))
    assert (squared_error(layer, found, scales) / energy).sum() < 1.1 * best

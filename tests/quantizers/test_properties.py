"""What every quantizer survives, on every alphabet."""

from __future__ import annotations

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.errors import UsageError
from deployq.quantizers import method, method_names
from deployq.quantizers.layer import LayerSolution, quantize_layer
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.registry import Problem
from deployq.quantizers.statistics import StatisticsAccumulator
from tests.quantizers.layers import Layer, random_layer, squared_error

ALPHABETS = ("binary", "ternary", "midrise-2", "midtread-2", "midtread-4", "symmetric-8")

#: Methods with an alphabet they work with; sparse-gpfq needs the level zero.
PAIRS = [
    (name, chosen)
    for name in method_names()
    for chosen in ALPHABETS
    if name != "sparse-gpfq" or 0 in alphabet(chosen).values
]
every_pair = pytest.mark.parametrize(("name", "chosen"), PAIRS)


def quantized(
    layer: Layer, name: str, chosen: str, notes: list[str] | None = None, granularity: str = "channel"
) -> LayerSolution:
    """The layer quantized, after the checks that hold for all."""
    channels = layer.flat_weights.shape[0]
    levels = alphabet(chosen)
    solution = quantize_layer(
        layer.flat_weights,
        np.zeros(channels),
        layer.statistics(),
        levels,
        name,
        granularity,
        SolverOptions(seed=(3, 5)),
        note=(notes if notes is not None else []).append,
    )
    assert solution.levels.shape == layer.flat_weights.shape
    assert np.isin(solution.levels, levels.values).all()
    assert np.all(solution.scales > 0)
    assert np.isfinite(solution.scales).all()
    assert np.isfinite(solution.bias).all()
    assert np.isfinite(solution.relative_error)
    return solution


def error_of(layer: Layer, solution: LayerSolution) -> float:
    """|X W - X~ Q|^2 about the mean, from the samples in float64."""
    exact = Layer(layer.quantized.astype(np.float64), layer.analog.astype(np.float64), layer.weights)
    groups, inputs, channels = layer.weights.shape
    levels = solution.levels.reshape(groups, channels, inputs).transpose(0, 2, 1)
    return float(squared_error(exact, levels, solution.scales.reshape(groups, channels)).sum())


def assert_no_worse_than_rounding(
    layer: Layer, solution: LayerSolution, name: str, chosen: str, granularity: str = "channel"
) -> None:
    """A stochastic quantizer is allowed its noise, a sparse one its zeros, gptq the mismatch it ignores."""
    slack = {"spfq": 1.5, "sparse-gpfq": 1.5, "gptq": 1.1}.get(name, 1.02)
    # At eight bits all errors are small; what is left is the rounding of the statistics.
    floor = 1e-4 * (layer.analog.astype(np.float64) @ layer.weights).var() * layer.analog.shape[1]
    rounding = error_of(layer, quantized(layer, "msq", chosen, granularity=granularity))
    assert error_of(layer, solution) <= slack * rounding + floor


@every_pair
@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_levels_are_of_the_alphabet_and_repeat_for_a_seed(name: str, chosen: str, granularity: str) -> None:
    layer = random_layer(0, 40, 5, 200)
    first = quantized(layer, name, chosen, granularity=granularity)
    second = quantized(layer, name, chosen, granularity=granularity)
    np.testing.assert_array_equal(first.levels, second.levels)
    np.testing.assert_array_equal(first.scales, second.scales)
    assert_no_worse_than_rounding(layer, first, name, chosen, granularity)


def test_another_seed_gives_other_levels_to_a_stochastic_method_only() -> None:
    layer, levels = random_layer(0, 40, 5, 200), alphabet("ternary")
    changed = set()
    for name in method_names():
        found = [
            method(name)(Problem(layer.statistics(), layer.weights, levels, SolverOptions(seed=(seed,))))(
                np.ones((1, 5))
            )
            for seed in range(2)
        ]
        if np.any(found[0] != found[1]):
            changed.add(name)
    assert changed == {"spfq"}


@every_pair
def test_dead_inputs(name: str, chosen: str) -> None:
    layer = random_layer(1, 30, 4, 150)
    layer.quantized[:, :, [0, 7, 29]] = 0.25
    layer.analog[:, :, [0, 7, 29]] = 0.25
    solution = quantized(layer, name, chosen)
    assert_no_worse_than_rounding(layer, solution, name, chosen)


@every_pair
def test_only_dead_inputs(name: str, chosen: str) -> None:
    layer = random_layer(1, 6, 3, 40)
    layer.quantized[:], layer.analog[:] = 0, 0
    assert quantized(layer, name, chosen).relative_error == 0


@every_pair
def test_dead_channels(name: str, chosen: str) -> None:
    layer = random_layer(2, 30, 4, 150, noise=0)
    layer.weights[:, :, [0, 2]] = 0
    solution = quantized(layer, name, chosen)
    output = layer.quantized[0] @ (solution.levels * solution.scales[:, None]).T
    live, dead = np.ptp(output[:, [1, 3]], axis=0), np.ptp(output[:, [0, 2]], axis=0)
    assert dead.max() < 1e-6 * live.min()


@every_pair
def test_duplicated_inputs(name: str, chosen: str) -> None:
    layer = random_layer(3, 36, 4, 150)
    layer.quantized[:, :, 18:], layer.analog[:, :, 18:] = layer.quantized[:, :, :18], layer.analog[:, :, :18]
    solution = quantized(layer, name, chosen)
    assert_no_worse_than_rounding(layer, solution, name, chosen)


@every_pair
@pytest.mark.parametrize("samples", [1, 2])
def test_hardly_any_samples(name: str, chosen: str, samples: int) -> None:
    layer = random_layer(4, 20, 3, samples)
    solution = quantized(layer, name, chosen)
    # The bias makes the mean output right, which for one sample is the output.
    exact = layer.analog[0] @ layer.weights[0]
    found = layer.quantized[0] @ (solution.levels * solution.scales[:, None]).T + solution.bias
    np.testing.assert_allclose(found.mean(axis=0), exact.mean(axis=0), atol=1e-6 * np.abs(exact).max())


@every_pair
def test_groups_are_solved_alone(name: str, chosen: str) -> None:
    layer = random_layer(5, 9, 2, 200, groups=6)
    together = quantized(layer, name, chosen)
    assert_no_worse_than_rounding(layer, together, name, chosen)
    if name != "spfq":  # whose random numbers depend on the place in the layer
        part = Layer(layer.quantized[2:3], layer.analog[2:3], layer.weights[2:3])
        np.testing.assert_array_equal(quantized(part, name, chosen).levels, together.levels[4:6])


@every_pair
def test_more_inputs_than_samples(name: str, chosen: str) -> None:
    layer = random_layer(6, 150, 3, 20)
    solution = quantized(layer, name, chosen)
    assert_no_worse_than_rounding(layer, solution, name, chosen)


def ill_conditioned(seed: int, inputs: int, samples: int) -> Layer:
    """float32 rows with nearly collinear columns of very different size."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(1, samples, 3)) @ generator.normal(size=(1, 3, inputs))
    sizes = 10 ** generator.uniform(-3, 3, size=inputs)
    analog = (hidden + 1e-5 * generator.normal(size=hidden.shape)) * sizes
    noise = 1 + 1e-3 * generator.normal(size=analog.shape)
    weights = generator.normal(size=(1, inputs, 4))
    return Layer((analog * noise).astype(np.float32), analog.astype(np.float32), weights)


@every_pair
@pytest.mark.parametrize("same_size", [True, False])
def test_float32_ill_conditioning(name: str, chosen: str, same_size: bool) -> None:
    layer = ill_conditioned(7, 120, 400)
    if same_size:
        sizes = np.abs(layer.analog).max(axis=(0, 1))
        layer = Layer(layer.quantized / sizes, layer.analog / sizes, layer.weights)
    solution = quantized(layer, name, chosen)
    assert_no_worse_than_rounding(layer, solution, name, chosen)


@pytest.mark.parametrize("name", ["gptq", "qronos"])
def test_raised_damping_is_told(name: str) -> None:
    """Products that rounding made indefinite are damped more, which the user hears of."""
    layer = ill_conditioned(8, 60, 300)
    accumulator = StatisticsAccumulator(1, 60)
    accumulator.update(layer.quantized, layer.analog)
    statistics = accumulator.finish()
    energy = np.diagonal(statistics.gram[0])
    statistics.gram[0] -= 0.1 * energy.max() * np.eye(60)
    np.fill_diagonal(statistics.gram[0], np.maximum(np.diagonal(statistics.gram[0]), 1e-6 * energy.max()))
    assert np.linalg.eigvalsh(statistics.gram[0])[0] < -0.02 * np.diagonal(statistics.gram[0]).mean()
    notes: list[str] = []
    levels = alphabet("midrise-2")
    problem = Problem(statistics, layer.weights, levels, note=notes.append)
    found = method(name)(problem)(np.abs(layer.weights).max(axis=1) / levels.largest)
    assert np.isin(found, levels.values).all()
    assert len(notes) == 1
    assert "damped" in notes[0]


def test_sparse_gpfq_refuses_an_alphabet_without_zero() -> None:
    for chosen in ("binary", "midrise-2"):
        with pytest.raises(UsageError, match="level zero"):
            quantized(random_layer(0, 4, 2, 10), "sparse-gpfq", chosen)

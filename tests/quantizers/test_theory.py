"""What the papers prove of the quantizers, observed on generic data."""

import numpy as np
import pytest

from deployq.alphabet import Alphabet, alphabet
from deployq.quantizers.maly_saab import leading_directions, saturate
from deployq.quantizers.registry import Problem, method
from deployq.quantizers.spfq import stochastic_level
from tests.quantizers.layers import Layer

#: Rows of the Gaussian layers, and their numbers of inputs: all well above the rows.
SAMPLES = 32
SIZES = (128, 256, 512, 1024)


def gaussian_layer(seed: int, inputs: int, channels: int, samples: int) -> Layer:
    """Gaussian rows, equal in both networks, and weights uniform on (-1, 1)."""
    generator = np.random.default_rng((seed, inputs))
    rows = generator.normal(size=(1, samples, inputs))
    return Layer(rows, rows, generator.uniform(-1, 1, size=(1, inputs, channels)))


def relative_square_error(
    name: str, levels: Alphabet, inputs: int, scale: float | None, neurons: int
) -> float:
    """Of 3 layers; the scale puts the largest weight on the largest level if it is None."""
    errors = []
    for seed in range(3):
        layer = gaussian_layer(seed, inputs, neurons, SAMPLES)
        largest = np.abs(layer.weights).max(axis=1) / levels.largest
        scales = largest if scale is None else np.full_like(largest, scale)
        found = method(name)(Problem(layer.statistics(centred=False), layer.weights, levels))(scales)
        outputs = layer.analog @ layer.weights
        residual = outputs - layer.quantized @ (found * scales[:, None, :])
        errors.append(np.mean((residual**2).sum(axis=1) / (outputs**2).sum(axis=1)))
    return float(np.mean(errors))


def slope(name: str, alphabet_name: str, scale: float | None, neurons: int = 32) -> float:
    """Of log error over log N."""
    levels = alphabet(alphabet_name)
    errors = [relative_square_error(name, levels, size, scale, neurons) for size in SIZES]
    return float(np.polyfit(np.log(SIZES), np.log(errors), 1)[0])


@pytest.mark.parametrize(("name", "scale"), [("ternary", 1.0), ("midrise-2", 0.5), ("midtread-4", 0.5)])
def test_the_relative_square_error_of_gpfq_decays_like_one_over_n(name: str, scale: float) -> None:
    """2010.15979 and 2201.11113, up to a logarithm."""
    assert -1.2 < slope("gpfq", name, scale) < -0.8


def test_the_relative_square_error_of_spfq_decays_like_one_over_n() -> None:
    """2309.10975, with an alphabet that the path does not leave."""
    assert -1.2 < slope("spfq", "midtread-5", 0.25) < -0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["binary", "midrise-2", "midtread-3"])
def test_the_relative_square_error_of_maly_saab_decays_like_one_over_n(name: str) -> None:
    """2209.03487: at most m of the N weights are rounded."""
    assert -1.2 < slope("maly-saab", name, None, neurons=10) < -0.8


def test_the_relative_square_error_of_rounding_does_not_decay() -> None:
    assert abs(slope("msq", "midtread-4", 0.5)) < 0.2


@pytest.mark.parametrize("name", ["binary", "midrise-2", "midtread-4"])
def test_stochastic_levels_are_right_on_average(name: str) -> None:
    levels, draws = alphabet(name), np.random.default_rng(0).random((40_000, 23))
    values = np.linspace(levels.values[0], levels.values[-1], 23)
    found = stochastic_level(levels, np.broadcast_to(values, draws.shape), draws)
    assert np.all(np.abs(found - values) < levels.step)
    # The variance of a level is largest half-way between two, a quarter of the squared step.
    assert np.abs(found.mean(axis=0) - values).max() < 5 * levels.step / 2 / np.sqrt(len(draws))


def test_stochastic_levels_beyond_the_alphabet() -> None:
    levels, draws = alphabet("midtread-2"), np.random.default_rng(0).random(40_000)
    values = np.full_like(draws, 5.25)
    assert np.all(stochastic_level(levels, values, draws) == 1)
    free = stochastic_level(levels, values, draws, finite=False)
    assert set(np.unique(free)) == {5, 6}
    assert abs(free.mean() - 5.25) < 5 * 0.5 / np.sqrt(draws.size)


def test_spfq_is_unbiased() -> None:
    """E q = w, hence E X q = X w, while no value is clipped (2309.10975)."""
    inputs, channels, draws, scale = 40, 3, 4000, 0.125
    layer, levels = gaussian_layer(0, inputs, channels, 60), alphabet("midtread-6")
    # Equal neurons of one layer are independent draws.
    problem = Problem(layer.statistics(centred=False), np.tile(layer.weights, draws), levels)
    found = method("spfq")(problem)(np.full((1, draws * channels), scale))
    assert levels.values[0] < found.min()
    assert found.max() < levels.values[-1]
    draw = scale * found.reshape(inputs, draws, channels)
    deviation = draw.std(axis=1) / np.sqrt(draws)
    assert np.all(np.abs(draw.mean(axis=1) - layer.weights[0]) < 5 * deviation)
    outputs = np.einsum("mn,ndc->mdc", layer.analog[0], draw)
    deviation = outputs.std(axis=1) / np.sqrt(draws)
    assert np.all(np.abs(outputs.mean(axis=1) - layer.analog[0] @ layer.weights[0]) < 5 * deviation)


@pytest.mark.parametrize(("samples", "rank", "inputs"), [(20, 20, 100), (50, 7, 90), (9, 3, 400)])
def test_maly_saab_leaves_at_most_rank_many_unsaturated_weights(samples: int, rank: int, inputs: int) -> None:
    """2209.03487: X z = X w, |z|_inf <= |w|_inf, and all but rank(X) weights are +-|w|_inf."""
    generator = np.random.default_rng(rank)
    rows = generator.normal(size=(samples, rank)) @ generator.normal(size=(rank, inputs))
    weights = generator.normal(size=(inputs, 25))
    space = leading_directions(rows.T @ rows, samples, directions=inputs)
    assert len(space.energy) == np.linalg.matrix_rank(rows) == rank
    end = np.broadcast_to(np.abs(weights).max(axis=0), weights.shape)
    found = saturate(space.rows, weights, -end, end)
    np.testing.assert_allclose(rows @ found, rows @ weights, atol=1e-8 * np.abs(rows @ weights).max())
    assert np.all(np.abs(found) <= end)
    assert np.count_nonzero(np.abs(found) < end, axis=0).max() <= rank

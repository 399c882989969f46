from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployq.alphabet import alphabet
from deployq.errors import ModelError, UsageError
from deployq.quantizers import method_names
from deployq.quantizers.layer import LayerSolution, quantize_layer
from tests.quantizers.layers import ALPHABETS, Layer, random_layer

GRANULARITIES = ("channel", "layer")
#: Methods that do not take the nearest level where the data say nothing.
NOT_NEAREST = ("spfq", "sparse-gpfq")
#: A method whose levels depend on draws, and so on how many neurons there are.
STOCHASTIC = ("spfq",)


def usable(method: str, name: str) -> bool:
    """Whether a method takes an alphabet; sparse-gpfq needs the level zero."""
    return method != "sparse-gpfq" or 0 in alphabet(name).values


PAIRS = [(name, method) for name in ALPHABETS for method in method_names() if usable(method, name)]
FEW_PAIRS = [
    (name, method) for name, method in PAIRS if name not in ("midtread-2", "midtread-3", "symmetric-8")
]


def solve(layer: Layer, name: str, method: str = "gpfq", granularity: str = "channel") -> LayerSolution:
    bias = np.linspace(-1, 1, layer.weights.shape[0] * layer.weights.shape[2])
    return quantize_layer(layer.flat_weights, bias, layer.statistics(), alphabet(name), method, granularity)


def outputs(layer: Layer, rows: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Outputs (m, out) of a grouped layer for weights (out, N)."""
    groups, _, inputs = rows.shape
    grouped = rows @ weights.reshape(groups, -1, inputs).transpose(0, 2, 1)
    return grouped.transpose(1, 0, 2).reshape(rows.shape[1], -1) + bias


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(1, 20),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from(PAIRS),
    st.sampled_from(GRANULARITIES),
)
def test_any_layer(
    seed: int, inputs: int, channels: int, samples: int, groups: int, pair: tuple[str, str], granularity: str
) -> None:
    name, method = pair
    layer = random_layer(seed, inputs, channels, samples, groups=groups)
    solution = solve(layer, name, method, granularity)
    out = groups * channels
    assert solution.levels.shape == (out, inputs)
    assert solution.levels.dtype == np.int16
    assert solution.scales.shape == solution.bias.shape == (out,)
    assert np.isin(solution.levels, alphabet(name).values).all()
    assert np.all(solution.scales > 0)
    assert np.isfinite(solution.scales).all()
    if granularity == "layer":
        assert len(np.unique(solution.scales)) == 1

    bias = np.linspace(-1, 1, out)
    wanted = outputs(layer, layer.analog, layer.flat_weights, bias)
    found = outputs(layer, layer.quantized, solution.levels * solution.scales[:, None], solution.bias)
    size = np.abs(wanted).max() + np.abs(found).max()
    assert np.all(np.abs((wanted - found).mean(axis=0)) <= 1e-12 * size)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_relative_error_is_that_of_the_samples(groups: int) -> None:
    layer = random_layer(1, 30, 3, 200, groups=groups)
    solution = solve(layer, "ternary")
    wanted = outputs(layer, layer.analog, layer.flat_weights, np.zeros(3 * groups))
    found = outputs(layer, layer.quantized, solution.levels * solution.scales[:, None], np.zeros(3 * groups))
    residual = wanted - found
    expected = np.linalg.norm(residual - residual.mean(axis=0)) / np.linalg.norm(wanted - wanted.mean(axis=0))
    assert solution.relative_error == pytest.approx(expected, rel=1e-9)


def test_more_bits_make_less_error() -> None:
    layer = random_layer(2, 100, 8, 400, noise=0)
    errors = [
        solve(layer, name).relative_error
        for name in (
            "binary",
            "ternary",
            "midrise-2",
            "midtread-3",
            "midtread-4",
            "midtread-5",
            "midtread-6",
            "symmetric-8",
        )
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_group_is_solved_like_a_layer_of_its_own(granularity: str) -> None:
    layer = random_layer(3, 9, 2, 100, groups=5)
    together = solve(layer, "midtread-4", granularity="channel")
    for group in range(5):
        one = slice(group, group + 1)
        alone = solve(Layer(layer.quantized[one], layer.analog[one], layer.weights[one]), "midtread-4")
        np.testing.assert_array_equal(alone.levels, together.levels[2 * group : 2 * group + 2])
        np.testing.assert_allclose(alone.scales, together.scales[2 * group : 2 * group + 2])


@pytest.mark.parametrize(
    ("name", "method"), [pair for pair in PAIRS if pair[0] in ("binary", "midrise-2", "symmetric-8")]
)
def test_one_weight_per_channel_is_exact_at_the_largest_level(name: str, method: str) -> None:
    layer = random_layer(4, 1, 1, 50, groups=20, noise=0)
    solution = solve(layer, name, method)
    weights = layer.flat_weights
    np.testing.assert_array_equal(solution.levels, alphabet(name).largest * np.sign(weights))
    np.testing.assert_allclose(solution.scales[:, None] * solution.levels, weights, rtol=1e-12)
    np.testing.assert_allclose(solution.bias, np.linspace(-1, 1, 20), atol=1e-9)
    assert solution.relative_error < 1e-6


@pytest.mark.parametrize(("name", "method"), FEW_PAIRS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
class TestDegenerate:
    """Layers on which some of the mathematics divides by zero."""

    def check(self, layer: Layer, name: str, method: str, granularity: str) -> LayerSolution:
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            solution = solve(layer, name, method, granularity)
        assert np.isin(solution.levels, alphabet(name).values).all()
        assert np.all(solution.scales > 0)
        assert np.isfinite(solution.scales).all()
        assert np.isfinite(solution.bias).all()
        assert 0 <= solution.relative_error < np.inf
        return solution

    def test_dead_inputs(self, name: str, method: str, granularity: str) -> None:
        layer = random_layer(5, 12, 3, 50)
        layer.quantized[:, :, 3:6] = 0
        layer.analog[:, :, 5:8] = 0.25
        self.check(layer, name, method, granularity)

    def test_no_live_input(self, name: str, method: str, granularity: str) -> None:
        layer = random_layer(6, 12, 3, 50)
        layer.quantized[:], layer.analog[:] = 0.1, 0.1
        solution = self.check(layer, name, method, granularity)
        rounded = self.check(layer, name, "msq", granularity)
        assert solution.relative_error < 1e-6
        if method in NOT_NEAREST:
            return
        np.testing.assert_array_equal(solution.levels, rounded.levels)

    def test_one_group_without_live_input(self, name: str, method: str, granularity: str) -> None:
        layer = random_layer(7, 9, 2, 50, groups=3)
        whole = self.check(
            Layer(layer.quantized[::2], layer.analog[::2], layer.weights[::2]), name, method, granularity
        )
        layer.quantized[1], layer.analog[1] = 0, 0
        solution = self.check(layer, name, method, granularity)
        kept = [0, 1, 4, 5]
        if granularity == "channel" and method not in STOCHASTIC:
            np.testing.assert_array_equal(solution.levels[kept], whole.levels)
            np.testing.assert_allclose(solution.scales[kept], whole.scales, rtol=1e-12)

    def test_analog_inputs_dead_and_quantized_ones_alive(
        self, name: str, method: str, granularity: str
    ) -> None:
        layer = random_layer(8, 9, 2, 50)
        layer.analog[:] = 0
        self.check(layer, name, method, granularity)

    def test_a_channel_without_weights(self, name: str, method: str, granularity: str) -> None:
        layer = random_layer(9, 12, 3, 50)
        layer.weights[:, :, 1] = 0
        solution = self.check(layer, name, method, granularity)
        if granularity == "channel":
            smallest = np.abs(alphabet(name).values).min()
            assert np.all(np.abs(solution.levels[1]) * solution.scales[1] <= 1e-6 * solution.scales[0])
            assert smallest > 0 or not solution.levels[1].any()

    def test_no_weights_at_all(self, name: str, method: str, granularity: str) -> None:
        layer = random_layer(10, 12, 3, 50)
        layer.weights[:] = 0
        self.check(layer, name, method, granularity)

    def test_one_sample(self, name: str, method: str, granularity: str) -> None:
        layer = random_layer(11, 12, 3, 1)
        self.check(layer, name, method, granularity)

    def test_duplicate_inputs_and_float32(self, name: str, method: str, granularity: str) -> None:
        layer = random_layer(12, 12, 3, 50)
        quantized, analog = layer.quantized.astype(np.float32), layer.analog.astype(np.float32)
        quantized[:, :, 6:], analog[:, :, 6:] = quantized[:, :, :6], analog[:, :, :6]
        self.check(Layer(quantized, analog, layer.weights), name, method, granularity)

    def test_tiny_and_huge_units(self, name: str, method: str, granularity: str) -> None:
        layer = random_layer(13, 12, 3, 50)
        usual = self.check(layer, name, method, granularity)
        for unit in (2.0**-60, 2.0**60):
            scaled = Layer(layer.quantized * unit, layer.analog * unit, layer.weights / unit)
            found = self.check(scaled, name, method, granularity)
            np.testing.assert_array_equal(found.levels, usual.levels)


def test_not_finite() -> None:
    layer = random_layer(14, 5, 2, 20)
    statistics = layer.statistics()
    arguments = (alphabet("ternary"), "gpfq", "channel")
    weights = layer.flat_weights.copy()
    weights[0, 0] = np.nan
    with pytest.raises(ModelError, match="weights or biases"):
        quantize_layer(weights, np.zeros(2), statistics, *arguments)
    with pytest.raises(ModelError, match="weights or biases"):
        quantize_layer(layer.flat_weights, np.array([0, np.inf]), statistics, *arguments)
    for field in ("gram", "cross", "analog_gram", "mean_quantized", "mean_analog"):
        broken = getattr(statistics, field).copy()
        broken.flat[0] = np.inf
        with pytest.raises(ModelError, match="its inputs are not finite"):
            quantize_layer(
                layer.flat_weights, np.zeros(2), replace(statistics, **{field: broken}), *arguments
            )


def test_unknown_options() -> None:
    layer = random_layer(15, 5, 2, 20)
    with pytest.raises(UsageError, match="granularity"):
        solve(layer, "ternary", granularity="tensor")
    with pytest.raises(UsageError, match="unknown quantizer"):
        solve(layer, "ternary", method="magic")

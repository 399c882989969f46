import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.quantizers.registry import Problem, method
from deployq.quantizers.sample_form import path_following_on_samples
from tests.quantizers.layers import ALPHABETS, Layer, greedy_on_samples, random_layer


def scales_of(layer: Layer, largest: int) -> np.ndarray:
    groups, _, channels = layer.weights.shape
    return np.random.default_rng(1).uniform(0.6, 2.0, size=(groups, channels)) / largest


@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize(
    ("inputs", "channels", "samples", "groups"),
    [(1, 1, 5, 1), (64, 2, 30, 1), (65, 2, 12, 1), (200, 3, 40, 1), (9, 2, 40, 5)],
)
@pytest.mark.parametrize("noise", [0, 0.3])
def test_the_levels_are_those_of_the_plain_recursion(
    name: str, inputs: int, channels: int, samples: int, groups: int, noise: float
) -> None:
    layer = random_layer(inputs, inputs, channels, samples, groups=groups, noise=noise)
    levels = alphabet(name)
    scales = scales_of(layer, levels.largest)
    found = path_following_on_samples(layer.quantized, layer.analog, layer.weights, levels, scales)
    np.testing.assert_array_equal(found, greedy_on_samples(layer, levels, scales))


def test_float32_rows_give_nearly_the_same_error() -> None:
    layer, levels = random_layer(0, 300, 8, 100), alphabet("midtread-3")
    scales = scales_of(layer, levels.largest)
    arrays = (layer.quantized, layer.analog)
    errors = []
    for rows in (arrays, [array.astype(np.float32) for array in arrays]):
        found = path_following_on_samples(*rows, layer.weights, levels, scales)
        residual = layer.analog @ layer.weights - layer.quantized @ (found * scales[:, None, :])
        errors.append(np.linalg.norm(residual))
    assert abs(errors[1] / errors[0] - 1) < 0.02


def test_dead_inputs_get_the_level_the_gram_form_gives_them() -> None:
    layer, levels = random_layer(4, 130, 3, 50), alphabet("midtread-4")
    layer.quantized[:, :, [0, 5, 64]] = 0
    scales = scales_of(layer, levels.largest)
    found = path_following_on_samples(layer.quantized, layer.analog, layer.weights, levels, scales)
    problem = Problem(layer.statistics(centred=False), layer.weights, levels)
    np.testing.assert_array_equal(found, method("gpfq")(problem)(scales))


def test_the_arguments_are_not_changed() -> None:
    layer = random_layer(2, 70, 3, 20)
    scales = scales_of(layer, 1)
    arguments = (layer.quantized, layer.analog, layer.weights)
    copies = [array.copy() for array in arguments]
    path_following_on_samples(*arguments, alphabet("ternary"), scales)
    for copy, array in zip(copies, arguments, strict=True):
        np.testing.assert_array_equal(copy, array)


@pytest.mark.parametrize("wrong", ["quantized", "analog", "scales"])
def test_wrong_shapes(wrong: str) -> None:
    layer = random_layer(2, 7, 3, 20)
    arguments = {"quantized": layer.quantized, "analog": layer.analog, "scales": np.ones((1, 3))}
    arguments[wrong] = arguments[wrong][:, :-1]
    with pytest.raises(ValueError, match="expected rows"):
        path_following_on_samples(
            arguments["quantized"],
            arguments["analog"],
            layer.weights,
            alphabet("ternary"),
            arguments["scales"],
        )

import tracemalloc

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.quantizers.registry import Problem, method
from deployq.quantizers.sample_form import SamplePath
from tests.quantizers.layers import ALPHABETS, Layer, greedy_on_samples, random_layer


def scales_of(layer: Layer, largest: int, candidates: int = 1) -> np.ndarray:
    groups, _, channels = layer.weights.shape
    generator = np.random.default_rng(1)
    return generator.uniform(0.6, 2.0, size=(groups, candidates * channels)) / largest


def path_of(layer: Layer) -> SamplePath:
    return SamplePath(layer.quantized, layer.analog, layer.weights)


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
    found = path_of(layer).run(scales, levels.nearest)
    np.testing.assert_array_equal(found, greedy_on_samples(layer, levels, scales))


@pytest.mark.parametrize("noise", [0, 0.3])
def test_scales_side_by_side_are_solved_each_by_itself(noise: float) -> None:
    layer, levels = random_layer(5, 100, 3, 40, groups=2, noise=noise), alphabet("midrise-2")
    scales = scales_of(layer, levels.largest, candidates=4)
    together = path_of(layer).run(scales, levels.nearest)
    for first in range(0, 12, 3):
        columns = slice(first, first + 3)
        alone = path_of(layer).run(scales[:, columns], levels.nearest)
        np.testing.assert_array_equal(together[:, :, columns], alone)


def test_rows_in_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, levels = random_layer(6, 150, 3, 70), alphabet("ternary")
    scales = scales_of(layer, levels.largest)
    whole = path_of(layer).run(scales, levels.nearest)
    monkeypatch.setattr("deployq.quantizers.sample_form._TILE", 60)
    monkeypatch.setattr("deployq.quantizers.sample_form._FEWEST_ROWS", 1)
    np.testing.assert_array_equal(path_of(layer).run(scales, levels.nearest), whole)


def test_single_precision_gives_nearly_the_same_error() -> None:
    layer, levels = random_layer(0, 300, 8, 100), alphabet("midtread-3")
    scales = scales_of(layer, levels.largest)
    errors = []
    for precision in (np.float64, np.float32):
        path = SamplePath(
            layer.quantized.astype(precision), layer.analog.astype(precision), layer.weights, precision
        )
        found = path.run(scales, levels.nearest)
        residual = layer.analog @ layer.weights - layer.quantized @ (found * scales[:, None, :])
        errors.append(np.linalg.norm(residual))
    assert abs(errors[1] / errors[0] - 1) < 0.02


def test_dead_inputs_get_the_level_the_gram_form_gives_them() -> None:
    layer, levels = random_layer(4, 130, 3, 50), alphabet("midtread-4")
    layer.quantized[:, :, [0, 5, 64]] = 0
    scales = scales_of(layer, levels.largest)
    found = path_of(layer).run(scales, levels.nearest)
    problem = Problem(layer.statistics(centred=False), layer.weights, levels)
    np.testing.assert_array_equal(found, method("gpfq")(problem)(scales))


def test_the_arguments_are_not_changed() -> None:
    layer = random_layer(2, 70, 3, 20)
    copies = [array.copy() for array in (layer.quantized, layer.analog, layer.weights)]
    path_of(layer).run(scales_of(layer, 1), alphabet("ternary").nearest)
    for copy, array in zip(copies, (layer.quantized, layer.analog, layer.weights), strict=True):
        np.testing.assert_array_equal(copy, array)


@pytest.mark.parametrize("wrong", ["quantized", "analog"])
def test_wrong_shapes(wrong: str) -> None:
    layer = random_layer(2, 7, 3, 20)
    rows = {"quantized": layer.quantized, "analog": layer.analog}
    rows[wrong] = rows[wrong][:, :, :-1]
    with pytest.raises(ValueError, match="expected rows"):
        SamplePath(rows["quantized"], rows["analog"], layer.weights)


def test_no_matrix_of_all_inputs_is_formed() -> None:
    inputs, levels = 3000, alphabet("ternary")
    layer = random_layer(3, inputs, 2, 30)
    path, scales = path_of(layer), scales_of(layer, 1)
    tracemalloc.start()
    path.run(scales, levels.nearest)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * inputs**2 / 20

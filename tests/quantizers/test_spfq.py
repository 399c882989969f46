from functools import partial

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.quantizers import method
from deployq.quantizers.gpfq import path_following
from deployq.quantizers.layer import quantize_layer
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.registry import Problem
from deployq.quantizers.spfq import bits_of_bound, stochastic_level
from tests.quantizers.layers import Layer, random_layer


def gaussian(inputs: int, samples: int = 400, channels: int = 20) -> Layer:
    generator = np.random.default_rng(inputs)
    rows = generator.normal(size=(1, samples, inputs))
    return Layer(rows, rows, generator.uniform(-1, 1, size=(1, inputs, channels)))


@pytest.mark.parametrize("inputs", [50, 400])
def test_without_clipping_the_levels_stay_within_the_bound(inputs: int) -> None:
    layer, levels = gaussian(inputs), alphabet("ternary")
    problem = Problem(layer.statistics(centred=False), layer.weights, levels)
    scales = np.full((1, 20), 0.5)
    generator = np.random.default_rng(0)

    def choose(values: np.ndarray) -> np.ndarray:
        return stochastic_level(levels, values, generator.random(values.shape), finite=False)

    largest = np.abs(path_following(problem).run(scales, choose)).max()
    bits = bits_of_bound(problem, scales)
    assert 1 < largest <= 2 ** (bits - 1)
    assert bits < 6


def test_the_bound_grows_very_slowly_with_the_inputs() -> None:
    def bits(inputs: int) -> float:
        layer = gaussian(inputs)
        layer.quantized[:] /= np.linalg.norm(layer.quantized, axis=1, keepdims=True)  # norms of one size
        problem = Problem(layer.statistics(centred=False), layer.weights, alphabet("ternary"))
        return bits_of_bound(problem, np.full((1, 20), 0.5))

    few, many, more = bits(10), bits(100), bits(1000)
    assert few < many < more < few + 0.5
    assert more - many < many - few


def test_equal_seeds_give_equal_levels_and_others_do_not() -> None:
    layer, levels = random_layer(1, 40, 5, 80), alphabet("midtread-3")
    found = [
        method("spfq")(Problem(layer.statistics(), layer.weights, levels, SolverOptions(seed=seed)))(
            np.full((1, 5), 0.3)
        )
        for seed in ((1, 2), (1, 2), (1, 3))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.any(found[0] != found[2])


def test_the_bound_is_told() -> None:
    layer, notes = random_layer(2, 30, 4, 60), list[str]()
    quantize = partial(
        quantize_layer, layer.flat_weights, np.zeros(4), layer.statistics(), alphabet("midtread-4")
    )
    quantize("spfq", "channel", note=notes.append)
    assert len(notes) == 1 and "2309.10975" in notes[0]
    quantize("gpfq", "channel", note=notes.append)
    assert len(notes) == 1

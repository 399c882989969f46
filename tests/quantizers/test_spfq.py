from functools import partial

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.errors import ModelError
from deployq.graph import Node
from deployq.layerwise import WeightSettings, solve_layer
from deployq.ops.linear import Linear
from deployq.quantizers import method
from deployq.quantizers.gpfq import path_following
from deployq.quantizers.layer import LayerSolution, quantize_layer
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


def infinite(layer: Layer, letters: str, notes: list[str] | None = None, refine: int = 0) -> LayerSolution:
    channels = layer.flat_weights.shape[0]
    return quantize_layer(
        layer.flat_weights,
        np.zeros(channels),
        layer.statistics(),
        alphabet(letters),
        "spfq",
        "channel",
        SolverOptions(spfq_alphabet="infinite"),
        refine,
        note=(notes if notes is not None else []).append,
    )


@pytest.mark.parametrize(("letters", "step"), [("binary", 2), ("ternary", 1), ("midrise-2", 2)])
@pytest.mark.parametrize("refine", [0, 2])
def test_an_infinite_alphabet_is_given_the_bits_it_takes(letters: str, step: int, refine: int) -> None:
    notes: list[str] = []
    solution = infinite(random_layer(7, 60, 6, 200), letters, notes, refine)
    levels, found = solution.levels, solution.alphabet
    assert found.step == step and found.bits > alphabet(letters).bits
    assert np.isin(levels, found.values).all() and not np.isin(levels, alphabet(letters).values).all()
    assert len(notes) == 1 and f"took {found.bits} bits, levels from {levels.min()} to" in notes[0]


def test_without_clipping_the_expected_weights_are_the_float_ones() -> None:
    """With X = X~ the expectation of the quantized weights is w (2309.10975), outliers included."""
    layer = gaussian(6, channels=400)
    layer.weights[:] = np.array([0.3, -2.5, 0.1, 4.0, -0.2, 0.6])[None, :, None]
    problem = Problem(
        layer.statistics(centred=False),
        layer.weights,
        alphabet("ternary"),
        SolverOptions(spfq_alphabet="infinite"),
    )
    levels = method("spfq")(problem)(np.ones((1, 400)))
    assert levels.max() > 1
    np.testing.assert_allclose(levels.mean(axis=2)[0], layer.weights[0, :, 0], atol=0.12)


def test_an_alphabet_that_is_finite_stays_as_it_is() -> None:
    layer = random_layer(7, 60, 6, 200)
    solution = quantize_layer(
        layer.flat_weights, np.zeros(6), layer.statistics(), alphabet("ternary"), "spfq", "channel"
    )
    assert solution.alphabet == alphabet("ternary")
    assert np.isin(solution.levels, solution.alphabet.values).all()


def small_inputs_last() -> Layer:
    """A layer whose last inputs are far too small to make up for the error of the others."""
    layer = random_layer(8, 60, 3, 200, noise=0)
    layer.quantized[:, :, 30:] *= 1e-4
    return layer


def test_levels_that_no_alphabet_has() -> None:
    with pytest.raises(ModelError, match=r"need 1\d bits"):
        infinite(small_inputs_last(), "ternary")


def test_the_layer_is_named() -> None:
    layer = small_inputs_last()
    node = Node("wide", Linear(layer.flat_weights.astype(np.float32), np.zeros(3)), ("x",), "y")
    options = SolverOptions(spfq_alphabet="infinite")
    settings = WeightSettings(alphabet("ternary"), "spfq", options=options)
    with pytest.raises(ModelError, match=r"layer 'wide': .* need 1\d bits") as caught:
        solve_layer(node, layer.statistics(), settings)
    assert caught.value.where == "--spfq-alphabet infinite"


def test_a_layer_whose_alphabet_is_fixed_keeps_it() -> None:
    layer = small_inputs_last()
    linear = Linear(layer.flat_weights.astype(np.float32), np.zeros(3), fixed_alphabet="symmetric-8")
    options = SolverOptions(spfq_alphabet="infinite")
    settings = WeightSettings(alphabet("ternary"), "spfq", options=options)
    weights, _ = solve_layer(Node("fixed", linear, ("x",), "y"), layer.statistics(), settings)
    assert weights.alphabet == alphabet("symmetric-8")

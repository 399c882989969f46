import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.quantizers import method
from deployq.quantizers.refine import refine_levels
from deployq.quantizers.registry import Problem
from deployq.quantizers.search import search_scale
from tests.quantizers.layers import ALPHABETS, random_layer, squared_error

GRANULARITIES = ("channel", "layer")


@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("solver", ["msq", "gpfq", "qronos"])
def test_refinement_never_loses(name: str, granularity: str, solver: str) -> None:
    layer, levels = random_layer(0, 90, 6, 300, groups=2), alphabet(name)
    problem = Problem(layer.statistics(), layer.weights, levels)
    start, scales = search_scale(method(solver), problem, granularity)
    found, fitted = refine_levels(problem, start, scales, granularity, 5)
    assert np.isin(found, levels.values).all()
    before, after = squared_error(layer, start, scales), squared_error(layer, found, fitted)
    if granularity == "layer":
        assert len(np.unique(fitted)) == 1
        energy = problem.statistics.objective(layer.weights).energy
        before, after = (before / energy).sum(), (after / energy).sum()
    assert np.all(after <= before * (1 + 1e-9))


def test_refinement_pays_after_rounding() -> None:
    layer = random_layer(1, 120, 8, 400)
    problem = Problem(layer.statistics(), layer.weights, alphabet("ternary"))
    start, scales = search_scale(method("msq"), problem, "channel")
    found, fitted = refine_levels(problem, start, scales, "channel", 5)
    assert squared_error(layer, found, fitted).sum() < 0.7 * squared_error(layer, start, scales).sum()


def test_no_single_change_improves_the_result() -> None:
    layer, levels = random_layer(2, 40, 3, 200), alphabet("midrise-2")
    problem = Problem(layer.statistics(), layer.weights, levels)
    found, scales = refine_levels(problem, *search_scale(method("gpfq"), problem, "channel"), "channel", 50)
    best = squared_error(layer, found, scales)
    for t in range(40):
        for level in levels.values:
            other = found.copy()
            other[:, t] = level
            assert np.all(squared_error(layer, other, scales) >= best * (1 - 1e-9))


def test_the_start_is_not_changed() -> None:
    layer = random_layer(3, 20, 3, 60)
    problem = Problem(layer.statistics(), layer.weights, alphabet("binary"))
    start, scales = search_scale(method("msq"), problem, "channel")
    copies = start.copy(), scales.copy()
    refine_levels(problem, start, scales, "channel", 3)
    np.testing.assert_array_equal(start, copies[0])
    np.testing.assert_array_equal(scales, copies[1])

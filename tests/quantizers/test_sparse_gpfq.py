import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.errors import UsageError
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.registry import Problem, method
from deployq.quantizers.sparse_gpfq import hard_level, soft_level, sparsity
from tests.quantizers.layers import Layer, low_rank_layer, random_layer

WITH_ZERO = ("ternary", "midtread-2", "midtread-3", "symmetric-8")


def levels_of(layer: Layer, name: str, scales: np.ndarray, **options: object) -> np.ndarray:
    problem = Problem(layer.statistics(), layer.weights, alphabet(name), SolverOptions(**options))  # type: ignore[arg-type]
    return method("sparse-gpfq")(problem)(scales)


def test_soft_levels() -> None:
    values = np.array([-9.0, -2.2, -2.0, -0.8, -0.7, 0.0, 0.7, 0.8, 1.7, 1.8, 9.0])
    expected = [-4, -2, -2, -1, 0, 0, 0, 1, 1, 2, 3]
    np.testing.assert_array_equal(soft_level(alphabet("midtread-3"), 0.25, values), expected)


def test_hard_levels() -> None:
    values = np.array([-9.0, -1.6, -1.5, -1.4, 0.0, 0.6, 1.2, 1.5, 1.51, 9.0])
    expected = [-4, -2, 0, 0, 0, 0, 0, 0, 2, 3]
    np.testing.assert_array_equal(hard_level(alphabet("midtread-3"), 1.5, values), expected)


@pytest.mark.parametrize("name", WITH_ZERO)
@pytest.mark.parametrize("threshold", ["soft", "hard"])
def test_without_a_threshold_it_is_gpfq(name: str, threshold: str) -> None:
    layer, scales = random_layer(0, 140, 4, 60), np.full((1, 4), 0.5)
    plain = method("gpfq")(Problem(layer.statistics(), layer.weights, alphabet(name)))(scales)
    np.testing.assert_array_equal(levels_of(layer, name, scales, threshold=threshold, sparsity=0), plain)


@pytest.mark.parametrize("threshold", ["soft", "hard"])
def test_sparsity_grows_with_lambda_up_to_all_zeros(threshold: str) -> None:
    layer, scales = low_rank_layer(1, 200, 4, 20), np.full((1, 4), 0.5)
    reached = [
        sparsity(levels_of(layer, "midtread-3", scales, threshold=threshold, sparsity=size))
        for size in (0, 0.75, 1.5, 3, 1e6)
    ]
    assert reached == sorted(reached)
    assert reached[1] > reached[0] + 0.05
    assert reached[-1] == 1


@pytest.mark.parametrize("threshold", ["soft", "hard"])
def test_the_path_makes_up_for_skipped_weights(threshold: str) -> None:
    layer = low_rank_layer(2, 400, 6, 8)
    scales, levels = np.full((1, 6), 0.7), alphabet("midtread-4")
    followed = levels_of(layer, levels.name, scales, threshold=threshold, sparsity=0.8)
    choose = soft_level if threshold == "soft" else hard_level
    memoryless = choose(levels, 0.8, layer.weights / scales[:, None, :])

    def error(found: np.ndarray) -> float:
        residual = layer.analog @ layer.weights - layer.quantized @ (found * scales[:, None, :])
        return float(np.linalg.norm(residual - residual.mean(axis=1, keepdims=True)))

    assert error(followed) < 0.5 * error(memoryless)
    assert sparsity(followed) > 0.3


@pytest.mark.parametrize("name", ["binary", "midrise-2"])
def test_alphabets_without_zero_are_refused(name: str) -> None:
    layer = random_layer(0, 5, 2, 20)
    with pytest.raises(UsageError, match=f"alphabet {name} has not"):
        levels_of(layer, name, np.ones((1, 2)))


def test_defaults_of_both_thresholds_make_zero_of_what_is_within_a_step() -> None:
    values, letters = np.array([-1.4, -1.01, -0.99, -0.5, 0.0, 0.6, 0.99, 1.01, 1.4]), alphabet("ternary")
    expected = [-1, -1, 0, 0, 0, 0, 0, 1, 1]
    for threshold, choose in (("soft", soft_level), ("hard", hard_level)):
        size = SolverOptions(threshold=threshold).threshold_size
        np.testing.assert_array_equal(choose(letters, size, values), expected)
    assert SolverOptions(threshold="hard", sparsity=0.75).threshold_size == 0.75


@pytest.mark.parametrize(
    ("threshold", "size", "told"), [("hard", 0.5, 1), ("hard", 0.6, 0), ("soft", 0.5, 0)]
)
def test_a_hard_threshold_that_changes_nothing_is_said(threshold: str, size: float, told: int) -> None:
    layer, notes = random_layer(0, 20, 2, 40), list[str]()
    options = SolverOptions(threshold=threshold, sparsity=size)
    problem = Problem(layer.statistics(), layer.weights, alphabet("ternary"), options, notes.append)
    method("sparse-gpfq")(problem)
    assert len(notes) == told
    assert all("changes nothing" in note for note in notes)


def test_sparsity_of_nothing() -> None:
    assert sparsity(np.zeros((0, 3))) == 0

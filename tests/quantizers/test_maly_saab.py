import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.quantizers import maly_saab
from deployq.quantizers.maly_saab import cells, fit_into_range, leading_directions, saturate
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.registry import Problem, method
from tests.quantizers.layers import ALPHABETS, Layer, low_rank_layer, random_layer, squared_error


def orthonormal_rows(generator: np.random.Generator, count: int, inputs: int) -> np.ndarray:
    return np.linalg.qr(generator.normal(size=(inputs, count)))[0].T


def unsaturated(found: np.ndarray, low: np.ndarray, high: np.ndarray) -> int:
    return int(((found != low) & (found != high)).sum(axis=0).max())


@pytest.mark.parametrize(
    ("count", "inputs", "neurons"),
    [(1, 1, 2), (1, 40, 3), (7, 8, 3), (20, 20, 2), (25, 300, 9), (90, 130, 5)],
)
def test_saturation_keeps_the_products_and_leaves_as_many_free_weights_as_rows(
    count: int, inputs: int, neurons: int
) -> None:
    generator = np.random.default_rng(inputs)
    rows = orthonormal_rows(generator, count, inputs)
    weights = generator.normal(size=(inputs, neurons))
    end = np.broadcast_to(np.abs(weights).max(axis=0), weights.shape)
    found = saturate(rows, weights, -end, end)
    np.testing.assert_allclose(rows @ found, rows @ weights, atol=1e-9)
    assert np.all(np.abs(found) <= end)
    assert unsaturated(found, -end, end) <= count


def test_saturation_within_cells_with_dead_and_equal_columns() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(12, 150))
    rows[:, [3, 140]] = 0
    rows[:, 50:90] = rows[:, 10:50]
    rows = np.linalg.svd(rows, full_matrices=False)[2]
    weights = generator.uniform(-3, 3, size=(150, 20)).round(1)
    levels = alphabet("midrise-2")
    low, high = cells(weights, levels)
    found = saturate(rows, weights, low, high)
    np.testing.assert_allclose(rows @ found, rows @ weights, atol=1e-9)
    assert np.all((found >= low) & (found <= high))
    assert unsaturated(found, low, high) <= 12


def test_without_data_every_weight_goes_to_the_nearer_end() -> None:
    weights = np.array([[0.4, -0.6], [0.2, 0.9]])
    found = saturate(np.zeros((0, 2)), weights, np.full((2, 2), -1.0), np.ones((2, 2)))
    np.testing.assert_array_equal(found, [[1, -1], [1, 1]])


@pytest.mark.parametrize(("block", "tableau"), [(1, 2**18), (7, 1), (1000, 1000)])
def test_blocks_do_not_change_the_walk(block: int, tableau: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    rows, weights = orthonormal_rows(generator, 15, 120), generator.uniform(-1, 1, size=(120, 10))
    ends = np.ones_like(weights)
    found = saturate(rows, weights, -ends, ends)
    monkeypatch.setattr(maly_saab, "_BLOCK", block)
    monkeypatch.setattr(maly_saab, "_TABLEAU", tableau)
    np.testing.assert_allclose(saturate(rows, weights, -ends, ends), found, atol=1e-9)


def test_cells_are_the_neighbouring_levels() -> None:
    values = np.array([-3.0, -2.9, -1.0, 0.0, 0.5, 3.0])
    low, high = cells(values, alphabet("midrise-2"))
    np.testing.assert_array_equal(low, [-3, -3, -1, -1, -1, 3])
    np.testing.assert_array_equal(high, [-3, -1, -1, 1, 1, 3])


def test_clipped_weights_are_made_up_for_by_the_others() -> None:
    generator = np.random.default_rng(2)
    rows, levels = orthonormal_rows(generator, 5, 200), alphabet("binary")
    weights = generator.normal(size=(200, 4))
    fitted = fit_into_range(rows, weights, levels)
    assert np.abs(fitted).max() == 1
    lost = np.linalg.norm(rows @ (fitted - weights))
    assert lost < 0.01 * np.linalg.norm(rows @ (np.clip(weights, -1, 1) - weights))


def test_weights_in_the_range_are_not_touched() -> None:
    weights = np.array([[0.3], [-0.9]])
    fitted = fit_into_range(np.eye(2), weights, alphabet("ternary"))
    np.testing.assert_array_equal(fitted, weights)


def test_directions_of_the_data() -> None:
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(500, 6)) @ generator.normal(size=(6, 40))
    gram = rows.T @ rows
    found = leading_directions(gram, samples=500)
    assert found.rows.shape == (6, 40)
    np.testing.assert_allclose(
        found.rows.T @ np.diag(found.energy) @ found.rows, gram, atol=1e-8 * gram.max()
    )
    np.testing.assert_allclose(gram @ found.pseudo_inverse @ gram, gram, atol=1e-8 * gram.max())
    assert len(leading_directions(gram, samples=4).energy) == 4
    assert len(leading_directions(gram, samples=500, directions=2).energy) == 2
    assert len(leading_directions(gram, samples=500, directions=40).energy) == 6
    assert len(leading_directions(np.diag(np.arange(1.0, 23)), samples=500).energy) == 6
    assert len(leading_directions(np.diag([1.0] * 20 + [4.0, 400.0]), samples=500).energy) == 1
    assert len(leading_directions(np.eye(600), samples=500).energy) == 128
    assert len(leading_directions(np.eye(600), samples=150).energy) == 150
    assert len(leading_directions(np.zeros((4, 4)), samples=500).energy) == 0


@pytest.mark.parametrize("name", ALPHABETS)
def test_the_error_of_low_rank_data_is_the_rounding_of_few_weights(name: str) -> None:
    layer, levels = low_rank_layer(4, 200, 8, 5), alphabet(name)
    scales = np.abs(layer.weights).max(axis=1) / levels.largest
    errors = []
    for solver in ("maly-saab", "msq"):
        found = method(solver)(Problem(layer.statistics(), layer.weights, levels))(scales)
        errors.append(squared_error(layer, found, scales).sum())
    assert errors[0] < 0.15 * errors[1]


@pytest.mark.parametrize("name", ["binary", "midrise-2"])
def test_the_mismatch_of_the_networks_is_corrected(name: str) -> None:
    clean, levels = low_rank_layer(5, 120, 6, 4), alphabet(name)
    scales = np.abs(clean.weights).max(axis=1) / levels.largest
    layer = Layer(0.7 * clean.quantized, clean.analog, clean.weights)
    found = method("maly-saab")(Problem(layer.statistics(), layer.weights, levels))(scales)
    ignored = method("maly-saab")(Problem(clean.statistics(), layer.weights, levels))(scales)
    assert squared_error(layer, found, scales).sum() < 0.5 * squared_error(layer, ignored, scales).sum()


def test_full_rank_data_keep_the_directions_asked_for() -> None:
    layer, levels = random_layer(6, 100, 8, 1000), alphabet("midrise-2")
    scales = np.abs(layer.weights).max(axis=1) / levels.largest

    def error(directions: int | None, solver: str = "maly-saab") -> float:
        options = SolverOptions(directions=directions)
        found = method(solver)(Problem(layer.statistics(), layer.weights, levels, options))(scales)
        return float(squared_error(layer, found, scales).sum())

    assert error(None) < 0.8 * error(None, "msq")
    # With few directions, or so many that the kernel is gone, it is little better than rounding.
    assert error(25) < 0.8 * min(error(2), error(100), error(None, "msq"))

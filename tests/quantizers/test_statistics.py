import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployq.errors import UsageError
from deployq.quantizers.statistics import LayerStatistics, StatisticsAccumulator
from tests.quantizers.layers import Layer, random_layer

PRODUCTS = ("gram", "cross", "analog_gram")


def direct(layer: Layer, *, centred: bool) -> LayerStatistics:
    quantized, analog = layer.quantized.astype(np.float64), layer.analog.astype(np.float64)
    means = quantized.mean(axis=1), analog.mean(axis=1)
    if centred:
        quantized, analog = quantized - means[0][:, None], analog - means[1][:, None]
    transposed = quantized.transpose(0, 2, 1)
    return LayerStatistics(
        transposed @ quantized,
        transposed @ analog,
        analog.transpose(0, 2, 1) @ analog,
        *means,
        samples=quantized.shape[1],
    )


def assert_equal(actual: LayerStatistics, expected: LayerStatistics, rtol: float) -> None:
    assert actual.samples == expected.samples
    for name in PRODUCTS:
        wanted = getattr(expected, name)
        np.testing.assert_allclose(
            getattr(actual, name), wanted, atol=rtol * np.abs(wanted).max(), err_msg=name
        )
    for name in ("mean_quantized", "mean_analog"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), rtol=rtol, atol=rtol)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
    st.integers(1, 3),
    st.integers(1, 7),
    st.booleans(),
)
def test_chunks_add_up_to_the_direct_formulas(
    seed: int, sizes: list[int], groups: int, inputs: int, centred: bool
) -> None:
    layer = random_layer(seed, inputs, 1, sum(sizes), groups=groups)
    accumulator = StatisticsAccumulator(groups, inputs)
    for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
        accumulator.update(layer.quantized[:, stop - size : stop], layer.analog[:, stop - size : stop])
    assert_equal(accumulator.finish(centred=centred), direct(layer, centred=centred), 1e-12)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 0)])
def test_chunks_where_both_networks_agree(order: tuple[int, int]) -> None:
    same, other = random_layer(1, 6, 1, 20, noise=0), random_layer(2, 6, 1, 30)
    assert same.quantized is same.analog
    chunks = [(same, other)[index] for index in order]
    accumulator = StatisticsAccumulator(1, 6)
    for chunk in chunks:
        accumulator.update(chunk.quantized, chunk.analog)
    both = Layer(
        np.concatenate([chunk.quantized for chunk in chunks], axis=1),
        np.concatenate([chunk.analog for chunk in chunks], axis=1),
        same.weights,
    )
    assert_equal(accumulator.finish(), direct(both, centred=True), 1e-12)


def test_float32_rows_with_large_means_lose_nothing() -> None:
    generator = np.random.default_rng(0)
    rows = (1000 + generator.normal(size=(1, 4000, 5))).astype(np.float32)
    layer = Layer(rows, rows + np.float32(1), rows)
    accumulator = StatisticsAccumulator(1, 5)
    for start in range(0, 4000, 500):
        accumulator.update(layer.quantized[:, start : start + 500], layer.analog[:, start : start + 500])
    assert_equal(accumulator.finish(), direct(layer, centred=True), 1e-6)


def test_precision_may_change_between_chunks() -> None:
    layer = random_layer(3, 4, 1, 40)
    accumulator = StatisticsAccumulator(1, 4)
    accumulator.update(layer.quantized[:, :20], layer.analog[:, :20].astype(np.float32))
    accumulator.update(layer.quantized[:, 20:].astype(np.float32), layer.analog[:, 20:])
    assert_equal(accumulator.finish(), direct(layer, centred=True), 1e-6)


def test_strided_rows_and_an_untouched_argument() -> None:
    layer = random_layer(4, 5, 1, 30, groups=3)
    strided = layer.quantized.transpose(1, 0, 2).copy().transpose(1, 0, 2)
    before = strided.copy()
    accumulator = StatisticsAccumulator(3, 5)
    accumulator.update(strided, layer.analog)
    assert_equal(accumulator.finish(), direct(layer, centred=True), 1e-12)
    np.testing.assert_array_equal(strided, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_and_zero_inputs_are_dead(dtype: type) -> None:
    layer = random_layer(5, 4, 1, 101)
    rows = layer.analog.astype(dtype)
    rows[0, :, 1], rows[0, :, 2] = 0.1, 0.0
    rows[0, :, 3] *= 1e-9
    accumulator = StatisticsAccumulator(1, 4)
    for start in range(0, 101, 17):
        accumulator.update(rows[:, start : start + 17], rows[:, start : start + 17])
    assert accumulator.finish().dead.tolist() == [[False, True, True, False]]
    assert accumulator.finish(centred=False).dead.tolist() == [[False, False, True, False]]


def test_no_rows() -> None:
    accumulator = StatisticsAccumulator(1, 3)
    accumulator.update(np.zeros((1, 0, 3)), np.zeros((1, 0, 3)))
    with pytest.raises(UsageError, match="no calibration samples"):
        accumulator.finish()


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 5, 4), (5, 3)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    rows = np.zeros(shape)
    with pytest.raises(ValueError, match="expected two arrays"):
        StatisticsAccumulator(1, 3).update(rows, rows)
    with pytest.raises(ValueError, match="expected two arrays"):
        StatisticsAccumulator(1, 3).update(np.zeros((1, 5, 3)), np.zeros((1, 6, 3)))

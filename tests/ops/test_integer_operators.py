"""The integer operators approximate the float ones, and refuse what they cannot prove."""

from __future__ import annotations

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.graph import Quantization
from deployq.layerwise import dequantize, quantize_values
from deployq.ops import QuantizedWeights, WeightedOperator
from deployq.ops.add import Add
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.base import Case
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.output_stage import Bounds
from deployq.ops.softmax import Softmax
from deployq.ops.window import Window
from tests.integer_networks import operator_cases

CASES = list(operator_cases())


def _quantization(values: np.ndarray) -> Quantization:  # type: ignore[type-arg]
    low, high = min(float(values.min()), 0), max(float(values.max()), 0)
    scale = (high - low) / 255 or 1.0
    return Quantization(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


@pytest.mark.parametrize(("kind", "case"), CASES, ids=[f"{kind} {case.name}" for kind, case in CASES])
def test_eight_bits_are_close_to_float(kind: str, case: Case) -> None:
    rng = np.random.default_rng(1)
    sources = [Quantization(0.02, int(rng.integers(-20, 20))) for _ in case.shapes]
    codes = [rng.integers(-128, 128, (8, *shape)).astype(np.int8) for shape in case.shapes]
    reals = [dequantize(code, source).astype(np.float64) for code, source in zip(codes, sources, strict=True)]
    op = case.op
    if isinstance(op, WeightedOperator):
        flat = op.weight.reshape(len(op.weight), -1).astype(np.float64)
        scales = np.abs(flat).max(axis=1) / 127
        levels = np.round(flat / scales[:, None]).astype(np.int16)
        expected = op.run(reals)
        output = _quantization(expected)
        weights = QuantizedWeights(levels, scales, op.bias, alphabet("symmetric-8"))
        integer = op.quantized(weights, sources[0], output)
    else:
        expected = op.run(reals)
        output = op.output_quantization(sources, _quantization(expected))
        integer = op.integer(sources, output)
    found = dequantize(integer.run(codes), output)
    allowed = 0.51 * output.scale
    if isinstance(op, WeightedOperator):
        taps = op.weight[0].size
        allowed += 0.02 * 128 * taps * float(scales.max()) * 0.5
    clipped = np.clip(expected, dequantize(np.array(-128), output), dequantize(np.array(127), output))
    assert np.abs(found - clipped).max() <= allowed * 1.01


def test_values_round_trip() -> None:
    quantization = Quantization(0.1, 5)
    codes = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_array_equal(quantize_values(dequantize(codes, quantization), quantization), codes)
    assert quantize_values(np.array([1e9, -1e9]), quantization).tolist() == [127, -128]


def test_relu_and_per_channel_clamp_become_integer_bounds() -> None:
    output = Quantization(0.5, -10)
    low, high = Bounds(np.array([0.0, -np.inf]), np.array([np.inf, 3.0])).quantized(output)
    assert (low.tolist(), high.tolist()) == ([-10, -128], [127, -4])


def test_accumulator_that_may_overflow_is_refused() -> None:
    # The C kernels sum x * (2 u), up to 127 * 510 per tap, onto a bias that holds 128 * 255 per tap:
    # 2^31 / (64770 + 32640) = 22045 taps of the largest weight are the most that fit.
    letters = alphabet("midrise-8")
    for taps, fits in ((22045, True), (22046, False)):
        layer = Linear(np.ones((1, taps), np.float32), np.zeros(1))
        levels = np.full((1, taps), 255, dtype=np.int16)
        weights = QuantizedWeights(levels, np.array([1e-7]), np.zeros(1), letters)
        if fits:
            layer.quantized(weights, Quantization(1.0, -128), Quantization(1.0, 0))
        else:
            with pytest.raises(ValueError, match="leaves int32"):
                layer.quantized(weights, Quantization(1.0, -128), Quantization(1.0, 0))


def test_dead_channel_keeps_its_bias() -> None:
    layer = Conv2d(np.zeros((2, 3, 1, 1), np.float32), np.array([1.5, -2.0]), Window((1, 1)))
    weights = QuantizedWeights(
        np.ones((2, 3), np.int16), np.full(2, 1e-30), np.array([1.5, -2.0]), alphabet("binary")
    )
    output = Quantization(0.02, 0)
    integer = layer.quantized(weights, Quantization(0.1, 3), output)
    codes = np.random.default_rng(0).integers(-128, 128, (5, 3, 2, 2)).astype(np.int8)
    real = dequantize(integer.run([codes]), output)
    np.testing.assert_allclose(real[:, 0], 1.5, atol=0.011)
    np.testing.assert_allclose(real[:, 1], -2.0, atol=0.011)


def test_average_pool_of_a_large_window() -> None:
    # A 64x64 mean: the sum needs 20 bits, and the ratio to an equal scale is 1 / 4096.
    source = Quantization(0.1, -128)
    integer = AveragePool2d(Window((64, 64))).integer([source], source)
    full = np.full((1, 1, 64, 64), 127, np.int8)
    assert integer.run([full]).item() == 127
    assert integer.run([np.full_like(full, -128)]).item() == -128


def test_softmax_sums_to_one() -> None:
    integer = Softmax().integer([Quantization(0.1, 0)], Quantization(1 / 256, -128))
    probabilities = integer.run([np.array([[0, 20, 40, -100]], np.int8)]).astype(int) + 128
    assert abs(int(probabilities.sum()) - 256) <= 4
    assert probabilities[0].argmax() == 2


def test_windows_at_positions_are_those_of_all_windows() -> None:
    rng = np.random.default_rng(0)
    window = Window((3, 2), (2, 1), (1, 0, 2, 1), (1, 2))
    batch = rng.normal(size=(4, 3, 9, 8))
    every = window.columns(batch)
    chosen = np.array([0, 3, 11, 20])
    flat = every.reshape(*every.shape[:3], -1)
    np.testing.assert_array_equal(window.columns_at(batch, chosen), flat[..., chosen])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot add"):
        Add().output_shape([(3, 2, 2), (3, 2, 1)])
    with pytest.raises(ValueError, match="does not fit"):
        Window((5, 5)).output_size(3, 9)

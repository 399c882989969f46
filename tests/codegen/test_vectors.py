"""The flash format of the Helium kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployq.codegen.packing.vectors import (
    VectorFormat,
    channel_vectors,
    first_taps,
    quad_vectors,
    tap_vectors,
)

_WIDTHS = pytest.mark.parametrize("bits", [1, 2, 4, 8])


@_WIDTHS
@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_vectors_come_back(bits: int, count: int, seed: int) -> None:
    layout = VectorFormat(bits)
    codes = np.random.default_rng(seed).integers(0, 1 << bits, size=(count, 16)).astype(np.uint8)
    packed = layout.pack(codes)
    assert packed.shape == (layout.units(count), 16)
    assert np.array_equal(layout.unpack(packed, count), codes)


@_WIDTHS
def test_field_i_of_every_byte_is_vector_i(bits: int) -> None:
    layout = VectorFormat(bits)
    codes = np.arange(layout.vectors_per_unit)[:, np.newaxis] * np.ones((1, 16), np.int64) % (1 << bits)
    (unit,) = layout.pack(codes.astype(np.uint8))
    for vector in range(layout.vectors_per_unit):
        assert np.all(unit >> (bits * vector) & ((1 << bits) - 1) == vector % (1 << bits))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fill a byte"):
        VectorFormat(3)
    with pytest.raises(ValueError, match="code 4 does not fit 2 bits"):
        VectorFormat(2).pack(np.full((1, 16), 4, np.uint8))


@pytest.mark.parametrize("taps", [1, 8, 15, 16, 17, 27, 32, 40, 144])
def test_the_first_vector_of_a_row_is_the_short_one(taps: int) -> None:
    rows = np.random.default_rng(taps).integers(1, 256, size=(8, taps)).astype(np.uint8)
    quads = quad_vectors(rows).reshape(2, tap_vectors(taps), 4, 16)
    first = first_taps(taps)
    assert 1 <= first <= 16 and (tap_vectors(taps) - 1) * 16 + first == taps
    assert not quads[:, 0, :, first:].any()
    for row in range(8):
        vectors = quads[row // 4, :, row % 4]
        assert np.array_equal(np.concatenate([vectors[0, :first], vectors[1:].reshape(-1)]), rows[row])


def test_depthwise_vectors_hold_16_channels_of_a_tap() -> None:
    rows = np.arange(20 * 9).reshape(20, 9).astype(np.uint8)
    vectors = channel_vectors(rows).reshape(2, 9, 16)
    assert np.array_equal(vectors[0], rows[:16].T)
    assert np.array_equal(vectors[1, :, :4], rows[16:].T)
    assert not vectors[1, :, 4:].any()


@pytest.mark.parametrize("taps", [16, 64, 144, 576])
def test_two_bits_take_a_quarter_of_eight(taps: int) -> None:
    rows = np.zeros((16, taps), np.uint8)
    sizes = [sum(VectorFormat(bits).pack(quad).nbytes for quad in quad_vectors(rows)) for bits in (2, 8)]
    assert 4 * sizes[0] == sizes[1] == rows.size

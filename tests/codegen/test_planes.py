"""The flash formats of the kernels for cores without DSP, and the proofs they rest on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.arithmetic import INT32_MAX, fits_lanes, multiplier_split, requantize
from deployq.codegen.packing.channel_pairs import ChannelPairFormat
from deployq.codegen.packing.planes import PlaneFormat


@given(
    bits=st.integers(1, 8),
    chunk=st.sampled_from((8, 16, 40)),
    rows=st.integers(1, 5),
    taps=st.integers(1, 90),
    seed=st.integers(0, 99),
)
def test_planes_round_trip(bits: int, chunk: int, rows: int, taps: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, taps)).astype(np.uint8)
    layout = PlaneFormat(bits, chunk)
    packed = layout.pack(codes)
    assert packed.shape == (rows, layout.row_bytes(taps))
    assert np.array_equal(layout.unpack(packed, taps), codes)


@given(bits=st.integers(1, 5), channels=st.integers(1, 25), taps=st.integers(1, 40), seed=st.integers(0, 99))
def test_channel_pairs_round_trip(bits: int, channels: int, taps: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (channels, taps)).astype(np.uint8)
    layout = ChannelPairFormat(bits)
    assert np.array_equal(layout.unpack(layout.pack(codes), channels, taps), codes)


def test_places_of_codes_are_as_described() -> None:
    codes = np.zeros((1, 20), np.uint8)
    codes[0, 11] = 2
    assert PlaneFormat(2, 16).pack(codes).tolist() == [[0, 8, 0, 0, 0, 0]]
    pairs = np.zeros((2, 9), np.uint8)
    pairs[1, 8] = 3
    assert ChannelPairFormat(2).pack(pairs).tolist() == [0, 3 << 16]
    assert ChannelPairFormat(2).mask == "0x00030003u"


def test_formats_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(ValueError, match="no planes"):
        PlaneFormat(2, 12)
    with pytest.raises(ValueError, match="does not fit"):
        PlaneFormat(1, 8).pack(np.full((1, 1), 2, np.uint8))
    with pytest.raises(ValueError, match="no pairs"):
        ChannelPairFormat(6)
    with pytest.raises(ValueError, match="does not fit"):
        ChannelPairFormat(1).pack(np.full((1, 1), 2, np.uint8))


@pytest.mark.parametrize(("taps", "fits"), [(255, True), (256, True), (257, False)])
def test_lanes_hold_exactly_sixteen_bits(taps: int, fits: bool) -> None:
    assert fits_lanes(np.full((1, taps), 1), taps) == fits  # 256 * -128 is the lowest lane
    assert fits_lanes(np.full((1, taps), -1), taps) == (taps <= 255)
    assert fits_lanes(np.full((2, 2 * taps), 1), taps) == fits


@given(
    largest=st.integers(1, 2**27),
    multiplier=st.integers(1, INT32_MAX),
    zero_point=st.integers(-128, 127),
    seed=st.integers(0, 99),
)
def test_a_split_multiplier_gives_the_same_requantization(
    largest: int, multiplier: int, zero_point: int, seed: int
) -> None:
    split = multiplier_split(-largest, largest, multiplier, zero_point)
    if split is None:
        return
    drawn = np.random.default_rng(seed).integers(-largest, largest + 1, 50)
    accumulators = np.concatenate([drawn, [-largest, largest, 0]])
    high, low = divmod(multiplier, 1 << split)
    low_product = accumulators * low
    rounding = (1 + 2 * zero_point) << (31 - split)
    total = accumulators * high + (low_product >> split) + rounding
    assert max(np.abs(low_product).max(), np.abs(total).max(), np.abs(accumulators * high).max()) <= INT32_MAX
    expected = requantize(accumulators, np.int64(multiplier), 0, zero_point, -128, 127)  # type: ignore[arg-type]
    assert np.array_equal(np.clip(total >> (32 - split), -128, 127), expected)


def test_a_split_is_found_exactly_where_products_fit() -> None:
    assert multiplier_split(-(2**15), 2**15, 2**20, 0) is not None
    assert multiplier_split(-(2**31) + 1, 2**31 - 1, INT32_MAX, 0) is None
    split = multiplier_split(-(2**20), 2**20, 2**20, -128)
    assert split is not None
    assert 2**20 * ((1 << split) - 1) <= INT32_MAX < 2**20 * ((1 << (split + 1)) - 1)

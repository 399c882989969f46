"""The packer: round trips, and the layouts written out by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.codegen.packing.streams import PackedFormat, dense, lanes, lanes_worthwhile

_FORMATS = [*(dense(bits) for bits in range(1, 9)), *(lanes(bits) for bits in range(1, 9))]


@st.composite
def _packable(draw: st.DrawFn) -> tuple[PackedFormat, npt.NDArray[np.uint8], int]:
    layout = draw(st.sampled_from(_FORMATS))
    rows, taps = draw(st.integers(1, 4)), draw(st.integers(1, 150))
    values = draw(st.lists(st.integers(0, layout.mask), min_size=rows * taps, max_size=rows * taps))
    return layout, np.array(values, np.uint8).reshape(rows, taps), draw(st.integers(0, layout.mask))


@given(_packable())
def test_unpacking_reverses_packing(case: tuple[PackedFormat, npt.NDArray[np.uint8], int]) -> None:
    layout, codes, neutral = case
    packed = layout.pack(codes, neutral)
    assert packed.shape == (len(codes), layout.row_bytes(codes.shape[1]))
    assert np.array_equal(layout.unpack(packed, codes.shape[1]), codes)


@given(st.integers(1, 8), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_dense_is_a_little_endian_bit_stream(bits: int, taps: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, size=(1, taps)).astype(np.uint8)
    stream = sum(int(code) << (bits * index) for index, code in enumerate(codes[0]))
    expected = stream.to_bytes(-(-bits * taps // 8), "little")
    assert dense(bits).pack(codes).tobytes() == expected


@given(st.integers(1, 8), st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_lanes_meet_the_activations_in_sxtb16_order(bits: int, taps: int, seed: int) -> None:
    """Multiply field by field, as SMLAD does, and compare with the plain inner product."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, size=(1, taps)).astype(np.uint8)
    x = rng.integers(-128, 128, size=taps)
    layout = lanes(bits)
    words = layout.pack(codes, neutral=layout.mask)[0].view("<u4")
    fields = 16 // bits
    padded = np.zeros(-(-taps // 4) * 4 + 4 * fields * len(words), dtype=np.int64)
    padded[:taps] = x
    operands = padded.reshape(-1, 4)[:, [[0, 2], [1, 3]]].reshape(-1, 2)
    total = 0
    for index in range(fields * len(words)):
        word, field = divmod(index, fields)
        for half in range(2):
            code = int(words[word]) >> (field * bits + 16 * half) & layout.mask
            total += code * int(operands[index, half])
    assert total == int((codes[0].astype(np.int64) * x).sum())


def test_a_hand_packed_word() -> None:
    codes = np.array([[1, 2, 3, 0]], np.uint8)  # taps 0, 1, 2, 3
    low, high = 1 | 2 << 2, 3 | 0 << 2  # operands (tap 0, tap 2), (tap 1, tap 3)
    assert int(lanes(2).pack(codes)[0].view("<u4")[0]) == low | high << 16


def test_lanes_are_dense_except_for_six_and_seven_bits() -> None:
    assert [bits for bits in range(1, 9) if lanes_worthwhile(bits)] == [1, 2, 3, 4, 5, 8]
    for bits in (1, 2, 4, 8):
        assert lanes(bits).row_bytes(64) == dense(bits).row_bytes(64)


def test_a_code_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 2 bits"):
        dense(2).pack(np.array([[4]], np.uint8))

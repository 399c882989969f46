"""The flash formats with several output channels in a word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployq.codegen.packing.fields import byte_pairs, linked, pairs

_FORMATS = {
    "pairs-1": pairs(1),
    "pairs-2": pairs(2),
    "linked": linked(),
    "bytes": byte_pairs(),
}


@pytest.mark.parametrize("name", _FORMATS)
@settings(max_examples=40, deadline=None)
@given(out=st.integers(1, 11), taps=st.integers(1, 41), seed=st.integers(0, 2**32 - 1))
def test_codes_come_back(name: str, out: int, taps: int, seed: int) -> None:
    layout = _FORMATS[name]
    codes = np.random.default_rng(seed).integers(0, 1 << layout.bits, size=(out, taps)).astype(np.uint8)
    words = layout.pack(codes)
    assert words.shape == (-(-out // 4), layout.row_words(taps))
    assert np.array_equal(layout.unpack(words, out, taps), codes)


@pytest.mark.parametrize("name", _FORMATS)
def test_every_bit_belongs_to_one_code(name: str) -> None:
    layout = _FORMATS[name]
    bits = [place + bit for places in layout.positions for place in places for bit in range(layout.bits)]
    assert sorted(bits) == list(range(32 * layout.unit_words))


def _lanes(word: int) -> tuple[int, int]:
    """Both halves of a word, signed."""
    low, high = word & 0xFFFF, word >> 16
    return low - (low >> 15 << 16), high - (high >> 15 << 16)


@pytest.mark.parametrize("bits", [1, 2])
def test_a_masked_word_is_a_pair_of_channels_for_taps_k_and_k_plus_2(bits: int) -> None:
    layout = pairs(bits)
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 1 << bits, size=(4, layout.unit_taps)).astype(np.int64)
    word = int(layout.pack(codes.astype(np.uint8))[0, 0])
    unit, shift = (2, 15) if bits == 1 else (1, 14)
    for index, turn in enumerate(layout.rotations):
        rotated = (word >> turn | word << (32 - turn)) & 0xFFFFFFFF
        step, pair = divmod(index, 2)
        taps = [step // 2 * 4 + step % 2 + lane * 2 for lane in range(2)]
        for lane, tap in zip(_lanes(rotated & layout.masks[0]), taps, strict=True):
            first, second = codes[2 * pair, tap], codes[2 * pair + 1, tap] - (1 << (bits - 1))
            assert lane == unit * first + second * 2**shift


def test_bytes_are_two_channels_of_a_lane() -> None:
    layout = byte_pairs()
    codes = np.random.default_rng(7).integers(0, 256, size=(4, 4)).astype(np.int64)
    for index, word in enumerate(int(word) for word in layout.pack(codes.astype(np.uint8))[0]):
        step, pair = divmod(index, 2)
        for lane, tap in zip(_lanes(word), (step, step + 2), strict=True):
            first, second = codes[2 * pair : 2 * pair + 2, tap]
            assert lane == first + 256 * (second - 128)
            assert lane & layout.masks[0] & 0xFFFF == first


def test_masks_of_linked_leave_two_channels_of_one_tap() -> None:
    """Weights of channels in the lanes of every masked word; the last channel is in two's complement."""
    factors = ((1, 16, 0, 0), (0, 16, 0, 4096), (256, 0, 1, 0))
    layout = linked()
    codes = np.random.default_rng(7).integers(0, 16, size=(4, 4)).astype(np.int64)
    for step, word in enumerate(int(word) for word in layout.pack(codes.astype(np.uint8))[0]):
        for mask, turn, factor in zip(layout.masks, layout.rotations, factors, strict=True):
            rotated = (word >> turn | word << (32 - turn)) & 0xFFFFFFFF
            for lane, tap in zip(_lanes(rotated & mask), (step, step + 2), strict=True):
                assert lane == np.dot(factor, codes[:, tap] - [0, 0, 0, 8])


def test_padding_is_zero() -> None:
    present = np.array([True, True, False, True, False])
    for layout in _FORMATS.values():
        top = (1 << layout.bits) - 1
        words = layout.pack(np.full((3, 5), top, dtype=np.uint8), present)
        restored = layout.unpack(words, 3, 5)
        zero = [1 << (layout.bits - 1) if signed else 0 for signed in layout.signed[:3]]
        assert np.array_equal(restored[:, ~present], np.array([zero, zero]).T)
        assert np.all(restored[:, present] == top)


def test_a_wide_code_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        pairs(2).pack(np.full((4, 4), 4, dtype=np.uint8))
    with pytest.raises(ValueError, match="no pairs"):
        pairs(3)

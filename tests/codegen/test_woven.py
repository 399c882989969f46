"""The flash formats whose spare bits make up further words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployq.codegen.packing.woven import woven

_WIDTHS = (3, 5, 6)


def _ror(word: int, places: int) -> int:
    return (word >> places | word << (32 - places)) & 0xFFFFFFFF


#: What kernels make of the stored words of a unit, written out.
_DERIVED: dict[int, Callable[[Sequence[int]], list[int]]] = {
    3: lambda w: [_ror(w[0] ^ _ror(w[1], 1) ^ _ror(w[2], 2), 1)],
    5: lambda w: [
        _ror(w[0] ^ _ror(w[1], 3), 3),
        _ror(w[2] ^ _ror(w[3], 3), 3),
        _ror(w[4] ^ _ror(w[1], 1) ^ _ror(w[3], 2), 3),
    ],
    6: lambda w: [_ror(w[0] ^ _ror(w[1], 2) ^ _ror(w[2], 4), 2)],
}
_MASKS = {3: 0x77777777, 5: 0x1F1F1F1F, 6: 0x3F3F3F3F}


def _codes(bits: int, out: int, taps: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 1 << bits, size=(out, taps)).astype(np.uint8)


@pytest.mark.parametrize("bits", _WIDTHS)
@settings(max_examples=40, deadline=None)
@given(out=st.integers(1, 11), taps=st.integers(1, 41), seed=st.integers(0, 2**32 - 1))
def test_codes_come_back(bits: int, out: int, taps: int, seed: int) -> None:
    layout = woven(bits)
    codes = _codes(bits, out, taps, seed)
    words = layout.pack(codes)
    assert words.shape == (-(-out // 4), layout.row_words(taps))
    assert np.array_equal(layout.unpack(words, out, taps), codes)


@pytest.mark.parametrize("bits", _WIDTHS)
def test_no_bit_is_lost(bits: int) -> None:
    layout = woven(bits)
    assert layout.mask == _MASKS[bits]
    assert 32 * layout.unit_words == 4 * bits * layout.unit_taps


@pytest.mark.parametrize("bits", _WIDTHS)
def test_every_spare_bit_is_chosen_for_one_code_bit_of_a_derived_word(bits: int) -> None:
    layout = woven(bits)
    left = [~layout.mask & 0xFFFFFFFF] * layout.unit_words
    for sources in layout.derived:
        reached = 0
        for source in sources:
            assert source.chosen & ~left[source.word] == 0
            left[source.word] ^= source.chosen
            place = _ror(source.chosen, source.rotation)
            assert place & reached == 0
            reached |= place
        assert _ror(layout.mask, 32 - layout.turn) & ~reached == 0
    assert not any(left)


@pytest.mark.parametrize("bits", _WIDTHS)
@pytest.mark.parametrize("kind", ["random", "low", "high"])
def test_words_are_what_kernels_make_of_the_stored_ones(bits: int, kind: str) -> None:
    """Stored and derived words, masked, hold the fields of the codes one after the other."""
    layout, taps = woven(bits), 48
    codes = _codes(bits, 8, taps, bits)
    if kind != "random":
        codes[:] = 0 if kind == "low" else (1 << bits) - 1
    expected = layout.fields.pack(codes).reshape(-1)
    words = []
    for unit in layout.pack(codes).reshape(-1, layout.unit_words).tolist():
        words += [word & _MASKS[bits] for word in (*unit, *_DERIVED[bits](unit))]
    assert words == expected.tolist()


@pytest.mark.parametrize("bits", _WIDTHS)
def test_the_comment_says_how_words_are_derived(bits: int) -> None:
    examples = {
        3: "word 3 = (word 0 ^ word 1 ror 1 ^ word 2 ror 2) ror 1.",
        5: "word 7 = (word 4 ^ word 1 ror 1 ^ word 3 ror 2) ror 3.",
        6: "word 3 = (word 0 ^ word 1 ror 2 ^ word 2 ror 4) ror 2.",
    }
    assert examples[bits] in woven(bits).comment()


@pytest.mark.parametrize("bits", _WIDTHS)
def test_padding_is_code_zero(bits: int) -> None:
    layout = woven(bits)
    present = np.array([True, True, False, True, False])
    codes = np.full((3, 5), (1 << bits) - 1, dtype=np.uint8)
    words = layout.pack(codes, present)
    assert np.array_equal(layout.unpack(words, 3, 5), codes * present)
    assert not layout.unpack(words, 4, layout.unit_taps)[:, 5:].any()
    assert not layout.unpack(words, 4, 5)[3].any()


def test_a_wide_code_is_refused() -> None:
    with pytest.raises(ValueError, match="code 32 does not fit 5 bits"):
        woven(5).pack(np.full((4, 4), 32, dtype=np.uint8))
    with pytest.raises(ValueError, match="no woven words of 4 bits"):
        woven(4)

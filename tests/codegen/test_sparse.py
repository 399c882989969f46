"""The sparse format: round trips, its bytes written out by hand, and where it is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.alphabet import alphabet
from deployq.codegen.kernels import Core, choose_kernel
from deployq.codegen.optimize import build_schedule
from deployq.codegen.packing.gaps import GAP_FORMATS, LONGEST_ROW, GapFormat, gap_lists
from deployq.codegen.packing.streams import dense, lanes
from deployq.codegen.sparse_choice import (
    CODE_BYTES,
    DenseCost,
    LayerCosts,
    Rivals,
    choose_gaps,
    cores,
    pay_for_code,
)
from deployq.ops import KernelCall
from tests.codegen.sparse_networks import Levels, linear_graph, random_levels

_DSP = frozenset({"dsp"})
_FORMATS = pytest.mark.parametrize("layout", GAP_FORMATS, ids=["4 bits", "8 bits"])


@st.composite
def _levels(draw: st.DrawFn) -> Levels:
    rows, taps = draw(st.integers(1, 3)), draw(st.integers(1, 700))
    density = draw(st.sampled_from([0.0, 0.004, 0.05, 0.3, 1.0]))
    levels = random_levels(rows, taps, density, draw(st.integers(0, 2**32 - 1)))
    sign = draw(st.sampled_from([-1, 0, 1]))
    return levels if sign == 0 else np.abs(levels) * np.int16(sign)


@given(st.sampled_from(GAP_FORMATS), _levels())
def test_unpacking_reverses_packing(layout: GapFormat, levels: Levels) -> None:
    packing = layout.pack(levels)
    assert np.array_equal(layout.unpack(packing.data, *levels.shape), levels)


@given(st.sampled_from(GAP_FORMATS), _levels())
def test_a_list_ascends_in_steps_that_fit_and_ends_inside_the_row(layout: GapFormat, levels: Levels) -> None:
    for row in levels:
        for taps in gap_lists(row, layout.largest):
            steps = np.diff(taps, prepend=0)
            assert np.all((steps >= 0) & (steps <= layout.largest))
            assert not taps or taps[-1] < row.size


_ROWS = {
    "empty": [0] * 40,
    "full": [1] * 40,
    "full of minus": [-1] * 40,
    "alternating": [1, -1] * 20,
    "halves": [1] * 600 + [-1] * 600,
    "first": [1] + [0] * 39,
    "last": [0] * 39 + [-1],
    "first and last, far apart": [-1] + [0] * 1500 + [1],
    "a wide gap after the other list has ended": [-1] * 3 + [0] * 900 + [1] * 3,
    "a wide gap broken where the other list has a weight": [0] * 255 + [-1] + [0] * 255 + [1],
    "a step of 15": [0] * 15 + [1],
    "a step of 16": [0] * 16 + [1],
    "a step of 255": [0] * 255 + [1],
    "a step of 256": [0] * 256 + [1],
    "one": [1],
    "none": [0],
}


@_FORMATS
@pytest.mark.parametrize("name", _ROWS)
def test_extreme_rows(layout: GapFormat, name: str) -> None:
    levels = np.array([_ROWS[name]] * 2, np.int16)
    packing = layout.pack(levels)
    assert np.array_equal(layout.unpack(packing.data, *levels.shape), levels)


@_FORMATS
def test_the_largest_gap_needs_no_help(layout: GapFormat) -> None:
    row = np.zeros((1, layout.largest + 2), np.int16)
    row[0, layout.largest] = 1
    assert layout.pack(row).listed == 1
    assert layout.pack(np.roll(row, 1)).listed == 3, "one tap is added and subtracted"


@_FORMATS
def test_the_longest_row(layout: GapFormat) -> None:
    levels = np.zeros((1, LONGEST_ROW), np.int16)
    levels[0, [0, -1]] = 1, -1
    assert np.array_equal(layout.unpack(layout.pack(levels).data, *levels.shape), levels)
    with pytest.raises(ValueError, match="too long"):
        layout.pack(np.zeros((1, LONGEST_ROW + 1), np.int16))


def test_hand_packed_rows() -> None:
    levels = np.array([[0, 1, 0, -1, 1, 1], [0, 0, 0, 0, 0, 0]], np.int16)
    counts, empty = [3, 0, 1, 0], [0, 0, 0, 0]
    assert GapFormat(8).pack(levels).data.tolist() == [*counts, 1, 3, 1, 3, *empty]
    assert GapFormat(4).pack(levels).data.tolist() == [*counts, 1 | 3 << 4, 1, 3, *empty]


def test_other_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="-1, 0 and"):
        GapFormat(4).pack(np.array([[2, 0]], np.int16))


def _dense_bytes(levels: Levels, features: frozenset[str]) -> int:
    layout = lanes(2) if "dsp" in features else dense(2)
    return len(levels) * layout.row_bytes(levels.shape[1])


def _bits_chosen(
    levels: Levels, features: frozenset[str], letters: str = "ternary", kind: str = "linear"
) -> int:
    """Bits of the gaps of the format chosen, 0 for the dense one."""
    dense_bytes = _dense_bytes(levels, features)
    chosen = choose_gaps(levels, alphabet(letters), dense_bytes, features, kind)
    return chosen.layout.bits if chosen else 0


@pytest.mark.parametrize(
    ("density", "portable", "linear", "conv2d"),
    [(0.02, 8, 8, 8), (0.05, 8, 8, 8), (0.1, 8, 8, 0), (0.3, 4, 0, 0), (0.4, 4, 0, 0), (0.7, 0, 0, 0)],
)
def test_the_format_of_each_density(density: float, portable: int, linear: int, conv2d: int) -> None:
    """Portable kernels gain most; with DSP, dense convolutions are faster than fully connected layers."""
    levels = random_levels(100, 800, density)
    for kind, dsp in (("linear", linear), ("conv2d", conv2d)):
        assert _bits_chosen(levels, frozenset(), kind=kind) == portable
        assert _bits_chosen(levels, _DSP, kind=kind) == dsp


def test_what_is_never_sparse() -> None:
    levels = random_levels(100, 800, 0.1)
    assert _bits_chosen(levels, frozenset(), "symmetric-2") == 8, "the same levels under another name"
    assert _bits_chosen(levels, frozenset(), "midtread-2") == 0
    assert _bits_chosen(np.zeros_like(levels), frozenset()) == 0, "not solved yet"
    assert _bits_chosen(random_levels(2, LONGEST_ROW + 1, 0.1), frozenset()) == 0


def test_weights_must_take_less_flash() -> None:
    levels = random_levels(100, 800, 0.1)
    packing = GapFormat(8).pack(levels)
    for dense_bytes, expected in ((len(packing.data), False), (len(packing.data) + 1, True)):
        rivals = Rivals(*levels.shape, dense_bytes, frozenset(), "linear")
        assert rivals.lose(packing.layout, len(packing.data), packing.listed) is expected


def _call(function: str, size: int) -> KernelCall:
    return KernelCall("", function, tables={"weights": np.zeros(size, np.uint8)})


def test_all_layers_of_a_kernel_pay_for_its_code_together() -> None:
    dense = [_call("dq_linear_w2a8", 1000)] * 4
    code = CODE_BYTES["dq_linear_gaps8_a8"]
    other = _call("dq_linear_gaps4_a8", 999)
    for saved, paid in ((code, False), (code + 1, True)):
        sparse = [_call("dq_linear_gaps8_a8", 1000 - part) for part in (100, saved - 100)]
        found = pay_for_code(dense, [*sparse, other, dense[3]])
        assert [call.function for call in found] == [
            *[("dq_linear_w2a8", "dq_linear_gaps8_a8")[paid]] * 2,
            *["dq_linear_w2a8"] * 2,
        ]


def test_a_network_stays_dense_where_its_code_would_grow() -> None:
    for rows, expected in ((4, "dq_linear_w2a8"), (200, "dq_linear_gaps4_a8")):
        graph = linear_graph(random_levels(rows, 200, 0.35))
        (step,) = build_schedule(graph, frozenset(), "nhwc").steps
        assert step.call.function == expected
        assert choose_kernel(step.node.op, [(200,)], Core(frozenset())).function == "dq_linear_gaps4_a8"  # type: ignore


def test_instructions_must_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a dense kernel that is just cheaper, and one that just is not."""
    levels = random_levels(100, 800, 0.1)
    packing = GapFormat(8).pack(levels)
    (core,) = cores(_DSP, "linear")
    even = core.gaps[8].of(*levels.shape, packing.listed) / 0.97 / levels.size
    for factor, expected in ((0.9999, False), (1.0001, True)):
        costs = {"linear": LayerCosts(DenseCost(even * factor, 0, 0), core.gaps)}
        monkeypatch.setattr("deployq.codegen.sparse_choice.CORTEX_M4", costs)
        rivals = Rivals(*levels.shape, 10**6, _DSP, "linear")
        assert rivals.lose(packing.layout, len(packing.data), packing.listed) is expected

"""Convolutions by table lookup: whole windows on Armv6-M, their requantization, and outputs over inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.arithmetic import (
    INT32_MAX,
    INT32_MIN,
    Int64Array,
    Requantization,
    requantize,
    sum_requantization,
)
from deployq.codegen.arena import plan_arena
from deployq.codegen.kernels import lane_stage, tables
from deployq.codegen.optimize import build_schedule
from deployq.ops.window import Window
from deployq.targets import Target
from tests.codegen.batches import check_on_core, check_on_host, drawn, networks
from tests.codegen.fields_conv2d_layers import FieldsLayer, fields_layers
from tests.codegen.harness import run_program, write_program

#: The C forms of the kernels for each core, on the host.
V7M = Target("v7m", "", "host", "", (), frozenset({"armv7m"}), 4, ())
V6M = Target("v6m", "", "host", "", (), frozenset({"armv6m"}), 4, ())

_LETTERS = ("binary", "ternary", "midrise-2", "midtread-2", "midtread-3", "midrise-3", "midrise-4")


def _layer(channels: int, size: tuple[int, int], kernel: int, out: int, letters: str) -> FieldsLayer:
    window = Window((kernel, kernel), pads=(kernel // 2,) * 4)
    return FieldsLayer(channels, size, window, 1, out, letters=letters, zero_point=-5, enclosed=True, seed=6)


def _wide() -> list[FieldsLayer]:
    """Sums of more than 16 bits, any number of pixels in the last block."""
    shapes = ((128, (3, 3)), (100, (2, 5)), (120, (1, 1)), (125, (3, 4)), (112, (3, 5)), (99, (2, 3)))
    return [
        replace(_layer(channels, size, 1, 3, letters), extreme=extreme, zero_point=zero_point)
        for channels, size in shapes
        for letters, extreme, zero_point in (("midrise-2", "high", -128), ("midrise-2", "", None))
    ]


def _plain(batch: int) -> list[FieldsLayer]:
    """Drawn layers without clamps, most of whose windows are looked up all at once."""
    plain = fields_layers(letters=_LETTERS).map(lambda layer: replace(layer, bounds=0))
    return [*drawn(plain, batch, 50), *_wide()]


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler", "target"), [(0, "gcc", V6M), (1, "clang", V6M)])
def test_whole_windows_are_exact_on_the_host(batch: int, compiler: str, target: Target) -> None:
    check_on_host(_plain(batch), target, compiler)


@pytest.mark.qemu
@pytest.mark.parametrize("flags", [("-O2",), ("-Os", "-DDQ_NO_ASM")])
def test_sums_of_more_than_a_lane_are_exact_on_the_core(flags: tuple[str, ...]) -> None:
    check_on_core(_wide(), "cortex-m0plus", flags)


def _function(layer: FieldsLayer, core: Target) -> str:
    return next(
        step.call.function
        for step in build_schedule(layer.graph(), core.features, "nhwc").steps
        if "conv2d" in step.call.function
    )


def test_wide_sums_are_those_of_odd_levels_up_to_seventeen_bits() -> None:
    high = replace(_layer(34, (3, 3), 1, 2, "midrise-4"), extreme="high")
    assert [_function(layer, V6M) for layer in (high, _wide()[0])] == [
        "dq_conv2d_w4a8_planes_wide",  # 34 * 15 * -128 = -65280
        "dq_conv2d_w2a8_planes_wide",
    ]
    beyond = replace(high, channels=35)
    assert _function(beyond, V6M) == "dq_conv2d_w4a8_planes_halves"
    even = replace(_layer(128, (3, 3), 1, 2, "midtread-3"), extreme="low")  # -4 * 128 * -128 = 65536
    assert _function(even, V6M) == "dq_conv2d_w3a8_planes_halves"


def _outputs_are_exact(layer: FieldsLayer, core: Target, directory: Path) -> bool:
    directory.mkdir()
    (network,) = networks([layer], core)
    write_program([network], directory)
    (found,) = run_program([network], directory, "gcc", ["-O1"])
    return np.array_equal(network.expected(), found)


def test_sums_beyond_the_proof_overflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = replace(_layer(40, (3, 3), 1, 2, "midrise-4"), extreme="high", enclosed=False)
    assert _outputs_are_exact(layer, V6M, tmp_path / "proven")
    monkeypatch.setattr(lane_stage, "signed_bits", lambda lowest, highest: 17)
    assert _function(layer, V6M) == "dq_conv2d_w4a8_planes_wide"
    assert not _outputs_are_exact(layer, V6M, tmp_path / "beyond")


def _arena(layer: FieldsLayer, core: Target) -> int:
    return plan_arena(build_schedule(layer.graph(), core.features, "nhwc"), 4).bytes


@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
def test_outputs_overwrite_inputs(core: Target) -> None:
    pixels, tables_and_copies = 16 * 16, 64 + 2
    assert _arena(_layer(32, (16, 16), 1, 32, "midrise-2"), core) == 32 * (pixels + tables_and_copies)
    ahead = (16 + 1) * 8  # a row and a pixel of the input are read again
    assert _arena(_layer(8, (16, 16), 3, 8, "ternary"), core) == pixels * 8 + ahead + tables_and_copies * 72


@pytest.mark.parametrize("kernel", [3, 1])
@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
def test_a_shorter_lead_overwrites_what_is_read(
    core: Target, kernel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _layer(8, (6, 6), kernel, 8 if kernel == 3 else 12, "ternary")
    assert _outputs_are_exact(layer, core, tmp_path / "proven")
    lead = tables._lead

    def shorter(geometry: dict[str, int], *, reads_once: bool) -> int:
        return lead(geometry, reads_once=reads_once) - 4

    monkeypatch.setattr(tables, "_lead", shorter)
    assert not _outputs_are_exact(layer, core, tmp_path / "beyond")


def _requantized(
    x: Int64Array, addend: int, multiplier: int, shift: int, bits: int, margin: int = 0
) -> Int64Array:
    """The form of `SumRequantization`, with 32-bit arithmetic that wraps; the margin is kept."""
    rest = 32 - bits
    high = -((-multiplier << shift) >> rest)
    low = (high << rest) - (multiplier << shift)
    assert int(x.max()) * low < 2**32
    most = (addend + x * high + 2**31) % 2**32 - 2**31
    assert int(most.min()) >= INT32_MIN + margin
    value = (most - (x * low >> rest)) >> bits
    return np.where(most < 0, -128, np.clip(value, 0, 255) - 128)


@given(
    bits=st.sampled_from((12, 16, 17, 19)),
    ends=st.tuples(st.integers(-(2**16), 2**16 - 1), st.integers(-(2**16), 2**16 - 1)),
    bias=st.one_of(st.integers(-40000, 40000), st.integers(-(2**26), 2**26)),
    steps=st.floats(0.01, 5000),
    shift=st.integers(0, 5),
    zero_point=st.integers(-128, 127),
    margin=st.sampled_from((0, 2**23 + 2**16)),
)
def test_sums_are_requantized_exactly(
    bits: int, ends: tuple[int, int], bias: int, steps: float, shift: int, zero_point: int, margin: int
) -> None:
    low, high = sorted((end << bits) >> 17 for end in ends)
    multiplier = int(min(max(steps / (high - low + 1) * 2.0 ** (32 - shift), 1), INT32_MAX - 1000))
    exact = Requantization(np.array([multiplier]), shift)
    found = sum_requantization(
        (np.array([low]), np.array([high])), bits, np.array([bias]), exact, zero_point, margin=margin
    )
    if found is None:  # outputs that far from int8 do not fit
        far = max(abs(bias + low), abs(bias + high)) * multiplier * 2.0 ** (shift - 32) + 128
        assert far > 2 ** (31 - bits) - 256 - (margin >> bits)
        return
    sums = np.arange(low, high + 1)
    expected = requantize(sums + bias, np.array(multiplier), shift, zero_point, -128, 127)
    x = sums + 2 ** (bits - 1)
    given = _requantized(x, int(found.addend[0]), int(found.multiplier[0]), shift, bits, margin)
    assert np.array_equal(given, expected)


@pytest.mark.parametrize(
    ("bits", "largest", "bias", "multiplier", "zero_point"),
    [
        (16, 7649, -303, 153391717, 38),  # 28.00003 sums a step: all edges close to an integer
        (17, 38745, 268439296, 200, -128),  # a single edge in the middle, hardly any slope
        (17, 34146, 268441600, 56, -128),
    ],
)
def test_constants_are_found_where_edges_are_close(
    bits: int, largest: int, bias: int, multiplier: int, zero_point: int
) -> None:
    ends = (np.array([-largest]), np.array([largest]))
    exact = Requantization(np.array([multiplier]), 0)
    found = sum_requantization(ends, bits, np.array([bias]), exact, zero_point)
    assert found is not None
    sums = np.arange(-largest, largest + 1)
    x = sums + 2 ** (bits - 1)
    expected = requantize(sums + bias, np.array(multiplier), 0, zero_point, -128, 127)
    given = _requantized(x, int(found.addend[0]), int(found.multiplier[0]), 0, bits)
    assert np.array_equal(given, expected)
    assert int(found.multiplier[0]) != multiplier


@pytest.mark.parametrize("margin", [0, 1, 2**24, 2**31 - 1, 2**31, 2**31 + 1])
def test_a_margin_is_kept(margin: int) -> None:
    """Outputs that are always the least one may be as low as the margin lets them be."""
    ends = (np.array([-32768]), np.array([32767]))
    exact = Requantization(np.array([2**24]), 0)
    found = sum_requantization(ends, 16, np.array([-(2**30)]), exact, 0, margin=margin)
    assert (found is None) == (margin > 2**31)
    if found is not None:
        assert int(found.addend[0]) == INT32_MIN + margin

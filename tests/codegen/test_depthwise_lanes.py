"""Depthwise kernels for 3x3 windows on cores without DSP, against the operators: on the host and in QEMU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.codegen.arena import plan_arena
from deployq.codegen.kernels import depthwise_lanes
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.weighted import ConvolutionLayer
from deployq.codegen.optimize import build_schedule
from deployq.ops import KernelCall
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.window import Window
from deployq.targets import Target
from tests.codegen.batches import check_on_core, check_on_host, drawn, networks
from tests.codegen.depthwise_layers import DepthwiseLayer, lane_layers
from tests.codegen.harness import run_program, write_program
from tests.codegen.test_plane_kernels import V6M, V7M
from tests.integer_networks import ALPHABETS


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler", "core"), [(0, "gcc", V7M), (1, "gcc", V6M), (2, "clang", V7M)])
def test_layers_are_exact_on_the_host(batch: int, compiler: str, core: Target) -> None:
    check_on_host(drawn(lane_layers(), batch), core, compiler)


def _layer(
    size: tuple[int, int], stride: int = 1, letters: str = "midrise-2", channels: int = 6
) -> DepthwiseLayer:
    index = next(i for i, one in enumerate(ALPHABETS) if one.name == letters)
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1))
    return DepthwiseLayer(channels, size, window, 1, index, 0, -128, "", True, 1)


def _call(layer: DepthwiseLayer, core: Target) -> KernelCall:
    steps = build_schedule(layer.graph(), core.features, "nhwc").steps
    return next(step.call for step in steps if "depthwise" in step.call.function)


def _operator(layer: DepthwiseLayer) -> ConvolutionLayer:
    ops = (node.op for node in layer.graph().nodes)
    op = next(op for op in ops if isinstance(op, IntegerConv2d))
    return ConvolutionLayer(op, (layer.channels, *layer.size))


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (_layer((12, 12)), "3x3s1_w2a8"),
        (_layer((12, 12), stride=2), "3x3s2_w2a8"),
        (_layer((25, 5), letters="ternary"), "3x3s1_w2a8"),
        (replace(_layer((12, 12)), shift=7), "3x3s1_shifted_w2a8"),
        (_layer((2, 200)), "3x3s1_low_w2a8"),
    ],
)
@pytest.mark.parametrize(("core", "pairing"), [(V7M, "neighbours"), (V6M, "halves")], ids=["v7m", "v6m"])
def test_the_kernels_are_chosen(layer: DepthwiseLayer, function: str, core: Target, pairing: str) -> None:
    assert _call(layer, core).function == f"dq_depthwise2d_{function}_{pairing}"


@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
def test_they_are_left_out_where_they_do_not_apply(core: Target) -> None:
    plain = _layer((12, 12))
    others = [
        replace(plain, window=Window((5, 5))),
        replace(plain, window=Window((3, 3), dilations=(2, 1))),
        replace(plain, window=Window((3, 3), (3, 3))),
        replace(plain, channels=3),
        replace(plain, multiplier=2),
        replace(plain, bounds=3),
        *([_layer((12, 12), letters="symmetric-8")] if core is V6M else []),
    ]
    for layer in others:
        assert depthwise_lanes.conv2d(_operator(layer), Core(core.features)) is None, layer
    assert depthwise_lanes.conv2d(_operator(plain), Core(frozenset({"dsp", "armv8m"}))) is None


def test_sums_that_do_not_fit_lanes_are_words_of_their_own() -> None:
    for stride in (1, 2):
        layer = _layer((12, 12), stride, letters="symmetric-8")
        assert _call(layer, V7M).function == f"dq_depthwise2d_3x3s{stride}_w8a8_singles"


def test_fewer_lines_are_expanded_where_memory_counts_most() -> None:
    layer = _operator(_layer((48, 48), channels=8))
    usual, small = (depthwise_lanes.conv2d(layer, Core(V7M.features, one)) for one in ("balanced", "ram"))
    assert usual is not None and small is not None
    assert usual.scratch_bytes == 144 + 25 * 8 * 16
    assert small.scratch_bytes == 144 + 25 * 4 * 16


@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
@pytest.mark.parametrize(
    ("layer", "in_place"),
    [
        (_layer((48, 20)), True),
        (_layer((25, 5)), True),
        (_layer((12, 12), stride=2), True),
        (replace(_layer((9, 20)), window=Window((3, 3), pads=(1, 1, 1, 9))), False),
    ],
    ids=["strips", "columns", "stride 2", "larger output"],
)
def test_a_layer_takes_the_place_of_its_input(layer: DepthwiseLayer, in_place: bool, core: Target) -> None:
    schedule = build_schedule(layer.graph(), core.features, "nhwc")
    step = next(step for step in schedule.steps if "depthwise" in step.call.function)
    arena = plan_arena(schedule, 4)
    starts = [arena.buffers[buffer] for buffer in (step.inputs[0], step.output)]
    assert (starts[0] == starts[1]) == in_place
    check_on_host([layer], core, "gcc")


def _wide() -> list[DepthwiseLayer]:
    """Images of few pixels, lines too long for tall columns, windows all padding."""
    sizes = ((1, 1), (1, 2), (2, 1), (3, 3), (1, 140), (140, 2), (3, 130))
    pads = Window((3, 3), (1, 1), (3, 3, 3, 3))
    return [
        *(
            replace(_layer(size, stride, letters=letters), seed=size[1])
            for size in sizes
            for stride in (1, 2)
            for letters in ("midrise-2", "symmetric-8")
        ),
        *(replace(_layer(size), window=pads) for size in ((1, 1), (2, 3))),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
def test_unusual_sizes_on_the_host(core: Target) -> None:
    check_on_host(_wide(), core, "gcc")


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m3", "cortex-m0plus"])
def test_unusual_sizes_on_the_cores(target: str) -> None:
    check_on_core(_wide(), target)


def _exact(layers: Sequence[DepthwiseLayer], core: Target, directory: Path) -> bool:
    directory.mkdir()
    batch = networks(layers, core)
    write_program(batch, directory)
    found = run_program(batch, directory, "gcc", ["-O1"])
    return all(np.array_equal(one.expected(), out) for one, out in zip(batch, found, strict=True))


@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
def test_a_shift_beyond_the_proof_overflows_the_lanes(
    core: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = replace(_layer((9, 10)), extreme="high", enclosed=False, shift=6)
    assert "shifted" in _call(layer, core).function
    assert _exact([layer], core, tmp_path / "proven")
    monkeypatch.setattr(depthwise_lanes, "_proven", lambda layer, pairing, folded: True)
    assert "shifted" not in _call(layer, core).function
    assert not _exact([layer], core, tmp_path / "beyond")

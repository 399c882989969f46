"""Depthwise kernels for 3x3 windows on cores without DSP, against the operators: on the host and in QEMU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.arithmetic import INT16_MAX, INT16_MIN
from deployq.codegen.arena import plan_arena
from deployq.codegen.kernels import depthwise_forms, depthwise_lanes
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.weighted import ConvolutionLayer
from deployq.codegen.optimize import build_schedule
from deployq.graph import Graph
from deployq.ops import KernelCall
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.window import Window
from deployq.targets import Target
from tests.codegen import depthwise_layers
from tests.codegen.batches import check_on_core, check_on_host, drawn, networks
from tests.codegen.depthwise_layers import DepthwiseLayer, lane_layers
from tests.codegen.harness import run_program, write_program
from tests.codegen.test_plane_kernels import V6M, V7M


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler", "core"), [(0, "gcc", V7M), (1, "gcc", V6M), (2, "clang", V7M)])
def test_layers_are_exact_on_the_host(batch: int, compiler: str, core: Target) -> None:
    check_on_host(drawn(lane_layers(), batch), core, compiler)


def _layer(
    size: tuple[int, int], stride: int = 1, letters: str = "midrise-2", channels: int = 6
) -> DepthwiseLayer:
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1))
    return DepthwiseLayer(channels, size, window, 1, letters=letters, zero_point=-128, enclosed=True, seed=1)


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
        (replace(_layer((12, 12)), steep=8), "3x3s1_shifted_w2a8"),
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


def test_a_shift_beyond_the_proof_overflows_the_lanes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = replace(_layer((9, 10)), extreme="high", enclosed=False, shift=6)
    assert "shifted" in _call(layer, V7M).function
    assert _exact([layer], V7M, tmp_path / "proven")
    monkeypatch.setattr(depthwise_forms, "_proven", lambda layer, pairing, folded: True)
    assert "shifted" not in _call(layer, V7M).function
    assert not _exact([layer], V7M, tmp_path / "beyond")


@pytest.mark.parametrize(
    ("letters", "extreme", "function"),
    [("symmetric-8", "high", "shifted_w8"), ("midtread-6", "low", "w6")],
)
def test_sums_beyond_the_proof_overflow_the_lanes(
    letters: str, extreme: str, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = replace(_layer((9, 10), letters=letters), extreme=extreme, enclosed=False)
    assert "pairs" in _call(layer, V6M).function
    monkeypatch.setattr(depthwise_forms, "_fit_lane", lambda lowest, highest: True)
    assert _call(layer, V6M).function == f"dq_depthwise2d_3x3s1_{function}a8_halves"
    assert not _exact([layer], V6M, tmp_path / "beyond")


def test_a_shift_of_the_same_outputs_is_part_of_the_constants() -> None:
    assert (
        _call(replace(_layer((12, 12)), shift=7), V7M).function
        == "dq_depthwise2d_3x3s1_shifted_w2a8_neighbours"
    )
    assert _call(replace(_layer((12, 12)), shift=7), V6M).function == "dq_depthwise2d_3x3s1_w2a8_halves"


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_lanes_hold_sixteen_bits(beyond: int) -> None:
    ends = np.array([0, 5])
    assert depthwise_forms._fit_lane(-ends, ends + INT16_MAX - 5 + beyond) == (beyond <= 0)
    assert depthwise_forms._fit_lane(-ends + INT16_MIN + 5 - beyond, ends) == (beyond <= 0)


def _enormous(stride: int = 1, shift: int = 0, letters: str = "midrise-2") -> list[DepthwiseLayer]:
    """Layers of which some channels, or all, have an enormous bias."""
    plain = _layer((12, 12), stride, letters=letters)
    return [
        replace(plain, enormous=channels, shift=shift, zero_point=zero_point, seed=channels)
        for channels in (1, 3, 6)
        for zero_point in (-128, 5)
    ]


@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_channel_with_an_enormous_bias_spares_the_others(stride: int, core: Target) -> None:
    layers = [*_enormous(stride), *_enormous(stride, 3)]
    for layer in layers:
        assert _call(layer, core).function.rsplit("_", 1)[1] == ("halves" if core is V6M else "neighbours")
        bias = _operator(layer).accumulation.folded_bias
        assert np.abs(bias[: layer.enormous]).max() > 2**16
    check_on_host(layers, core, "gcc")


@pytest.mark.qemu
@pytest.mark.parametrize("flags", [("-O2",), ("-Os", "-DDQ_NO_ASM")])
@pytest.mark.parametrize("target", ["cortex-m3", "cortex-m0plus"])
def test_enormous_biases_on_the_cores(target: str, flags: tuple[str, ...]) -> None:
    layers = [*_enormous(), *_enormous(2, 3), *_enormous(1, 1, "ternary"), *_enormous(2, 0, "midtread-4")]
    check_on_core(layers, target, flags)


def test_outputs_far_below_int8_need_a_margin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = replace(_layer((9, 10)), enclosed=False)
    shape = depthwise_layers.with_enormous_biases

    def sunk(graph: Graph, channels: int, rng: np.random.Generator) -> Graph:
        """The first channel is far below the least output, whatever its input."""
        (node,) = graph.nodes
        assert isinstance(node.op, IntegerConv2d)
        accumulation = node.op.accumulation
        bias, multiplier = accumulation.bias.copy(), accumulation.stage.multiplier.copy()
        bias[0], multiplier[0] = -(2**24), 2**30
        stage = replace(accumulation.stage, multiplier=multiplier)
        op = replace(node.op, accumulation=replace(accumulation, bias=bias, stage=stage))
        return shape(graph.with_nodes((replace(node, op=op),), output=graph.output), channels, rng)

    monkeypatch.setattr(depthwise_layers, "with_enormous_biases", sunk)
    assert _call(layer, V6M).function == "dq_depthwise2d_3x3s1_w2a8_halves"
    assert _exact([layer], V6M, tmp_path / "proven")
    monkeypatch.setattr(depthwise_forms, "_MARGIN", 0)
    assert _call(layer, V6M).function == "dq_depthwise2d_3x3s1_w2a8_halves"
    assert not _exact([layer], V6M, tmp_path / "beyond")

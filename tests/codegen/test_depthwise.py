"""Depthwise kernels on planes against the reference: on the host under sanitizers, and in QEMU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.codegen.arena import plan_arena
from deployq.codegen.kernels import depthwise
from deployq.codegen.optimize import build_schedule
from deployq.ops import KernelCall
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.window import Window
from tests.codegen.batches import check_on_core, check_on_host, drawn, networks
from tests.codegen.depthwise_layers import DepthwiseLayer, depthwise_layers, window_layers
from tests.codegen.harness import DSP, run_program, write_program

_LAYERS = depthwise_layers()


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler"), [(0, "gcc"), (1, "gcc"), (2, "clang")])
def test_layers_are_exact_on_the_host(batch: int, compiler: str) -> None:
    check_on_host(drawn(_LAYERS, batch), DSP, compiler)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler"), [(0, "gcc"), (1, "clang")])
def test_windows_of_all_kinds_are_exact_on_the_host(batch: int, compiler: str) -> None:
    check_on_host(drawn(window_layers(), batch), DSP, compiler)


_LETTERS = ("midrise-8", "symmetric-8", "midtread-7", "ternary")


def _shifted_layers() -> list[DepthwiseLayer]:
    """Stages that shift, which the kernels for 3x3 do to the weights where these fit 16 bits."""
    return [
        replace(_enclosed((11, 12), stride), letters=name, bounds=0, zero_point=None, shift=shift)
        for name in _LETTERS
        for stride in (1, 2)
        for shift in (0, 1, 5, 10)
    ]


@pytest.mark.slow
def test_shifted_layers_are_exact_on_the_host() -> None:
    check_on_host(_shifted_layers(), DSP, "gcc")


@pytest.mark.qemu
@pytest.mark.parametrize("flags", [("-O2",), ("-O2", "-DDQ_NO_ASM")])
def test_shifted_layers_are_exact_on_cortex_m4(flags: tuple[str, ...]) -> None:
    check_on_core(_shifted_layers(), "cortex-m4", flags)


@pytest.mark.parametrize(
    ("letters", "largest"), [("midrise-8", 7), ("symmetric-8", 8), ("midtread-7", 9), ("ternary", 14)]
)
def test_a_shift_is_done_to_the_weights_where_they_fit(letters: str, largest: int) -> None:
    plain = replace(_enclosed((6, 6)), letters=letters, bounds=0, zero_point=None)
    usual = _stage_shift(plain)
    for total, folded in ((largest, True), (largest + 1, False)):
        layer = replace(plain, shift=total - usual)
        assert _stage_shift(layer) == total
        call = _call(layer)
        assert call.parameters["stage.shift"] == (0 if folded else total)
        assert ("staged" in call.function) != folded


@pytest.mark.parametrize(
    ("letters", "largest"), [("midrise-8", 7), ("symmetric-8", 8), ("midtread-7", 9), ("ternary", 14)]
)
def test_a_larger_shift_would_overflow_the_weights(
    letters: str, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One past the proof: weights of the extreme level no longer fit 16 bits."""
    extreme = "low" if letters.startswith("midrise") else "high"
    plain = replace(_enclosed((6, 6)), letters=letters, bounds=0, zero_point=None, extreme=extreme)
    usual = _stage_shift(plain)
    monkeypatch.setattr(depthwise, "_folded_shift", lambda layer: layer.accumulation.stage.shift)
    for total, exact in ((largest, True), (largest + 1, False)):
        (network,) = networks([replace(plain, shift=total - usual)], DSP)
        directory = tmp_path / str(total)
        directory.mkdir()
        write_program([network], directory)
        (found,) = run_program([network], directory, "gcc", ["-O1"])
        assert np.array_equal(network.expected(), found) == exact


def _stage_shift(layer: DepthwiseLayer) -> int:
    ops = (node.op for node in layer.graph().nodes)
    return next(op.accumulation.stage.shift for op in ops if isinstance(op, IntegerConv2d))


def _call(layer: DepthwiseLayer) -> KernelCall:
    steps = build_schedule(layer.graph(), DSP.features, "nhwc").steps
    return next(step.call for step in steps if "depthwise" in step.call.function)


def _enclosed(
    size: tuple[int, int],
    stride: int = 1,
    multiplier: int = 1,
    *,
    channels: int = 8,
    dilation: int = 1,
    pad: int = 1,
    kernel: tuple[int, int] = (3, 3),
) -> DepthwiseLayer:
    window = Window(kernel, (stride, stride), (pad, pad, pad, pad), (dilation, dilation))
    return DepthwiseLayer(
        channels,
        size,
        window,
        multiplier,
        letters="midrise-2",
        bounds=1,
        zero_point=-128,
        enclosed=True,
        seed=1,
    )


#: Layers, and whether they may overwrite their input.
_PLACES = [
    (_enclosed((48, 48)), True),
    (_enclosed((25, 5)), True),
    (_enclosed((12, 12), stride=2), True),
    (_enclosed((12, 12), multiplier=2), False),
    (_enclosed((48, 48), channels=3), True),
    (_enclosed((48, 48), channels=1), True),
    (_enclosed((48, 48), stride=3), True),
    (_enclosed((48, 48), dilation=2, pad=2), True),
    (_enclosed((31, 29), dilation=3, pad=3), True),
    (_enclosed((31, 29), dilation=3, pad=3, channels=2), True),
    (_enclosed((48, 48), dilation=2, stride=2, pad=2), True),
    # The outputs of a phase lie over the inputs of another one that is not expanded yet.
    (_enclosed((48, 48), dilation=2), False),
    (_enclosed((48, 48), dilation=2, stride=3, pad=2), False),
]


@pytest.mark.parametrize(("layer", "in_place"), _PLACES)
def test_a_layer_takes_the_place_of_its_input(layer: DepthwiseLayer, in_place: bool) -> None:
    schedule = build_schedule(layer.graph(), DSP.features, "nhwc")
    step = next(step for step in schedule.steps if "depthwise" in step.call.function)
    arena = plan_arena(schedule, 8)
    starts = [arena.buffers[buffer] for buffer in (step.inputs[0], step.output)]
    assert (starts[0] == starts[1]) == in_place


@pytest.mark.slow
def test_layers_in_place_are_exact_on_the_host() -> None:
    check_on_host([layer for layer, _ in _PLACES], DSP, "gcc")


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (_enclosed((24, 24)), "dq_depthwise2d_3x3s1_w2a8_smlad"),
        (_enclosed((24, 24), dilation=2), "dq_depthwise2d_3x3s1_dilated_w2a8_smlad"),
        # Stride and dilation together are a dense window on a quarter of the pixels.
        (_enclosed((24, 24), dilation=2, stride=2), "dq_depthwise2d_3x3s1_w2a8_smlad"),
        (_enclosed((24, 24), stride=3), "dq_depthwise2d_k3x3s3_w2a8_smlad"),
        (_enclosed((24, 24), channels=2), "dq_depthwise2d_3x3s1_few_w2a8_smlad"),
        (_enclosed((24, 24), channels=1), "dq_depthwise2d_3x3s1_few_w2a8_smlad"),
        (_enclosed((24, 24), channels=1, multiplier=16), "dq_depthwise2d_3x3s1_few_w2a8_smlad"),
        (_enclosed((24, 24), kernel=(1, 7)), "dq_depthwise2d_k1x7s1_w2a8_smlad"),
        (_enclosed((24, 24), kernel=(9, 9), pad=4), "dq_depthwise2d_k9x9s1_w2a8_smlad"),
        (_enclosed((24, 24), kernel=(14, 14), pad=7), "dq_depthwise2d_any_w2a8_smlad"),
        # Phases along the columns make lines of few pixels, and those of a window fit the scratch memory.
        (_enclosed((64, 64), dilation=12), "dq_depthwise2d_3x3s1_dilated_w2a8_smlad"),
    ],
)
def test_the_kernel_fits_the_window(layer: DepthwiseLayer, function: str) -> None:
    assert _call(layer).function == function


def _wide_pads() -> list[DepthwiseLayer]:
    """Windows that see no pixel, or hardly one."""
    windows = (
        Window((1, 1), (1, 7), (0, 4, 0, 0)),
        Window((3, 3), (5, 5), (1, 9, 1, 9)),
        Window((1, 3), (1, 1), (0, 11, 0, 0), (1, 2)),
        Window((3, 3), (2, 3), (9, 0, 0, 9), (1, 4)),
        Window((3, 3), (1, 1), (7, 7, 7, 7), (7, 7)),
        Window((2, 5), (4, 1), (9, 9, 0, 9), (3, 3)),
    )
    return [
        DepthwiseLayer(channels, (2, 3), window, letters="midrise-2", zero_point=-5, seed=1)
        for window in windows
        for channels in (3, 8)
    ]


def test_pads_wider_than_the_image_on_the_host() -> None:
    check_on_host(_wide_pads(), DSP, "gcc")


@pytest.mark.qemu
def test_pads_wider_than_the_image_on_cortex_m4() -> None:
    check_on_core(_wide_pads(), "cortex-m4")


def _forms() -> list[DepthwiseLayer]:
    """Every kind of window, dilated or not, of few channels or more, with a plain output stage or another."""
    layers = [
        _enclosed((20, 21), channels=channels, dilation=dilation, pad=pad, kernel=kernel)
        for kernel, pad in (((3, 3), 2), ((5, 5), 4), ((14, 14), 7))
        for dilation in (1, 2)
        for channels in (3, 6)
    ]
    return [replace(layer, bounds=bounds) for layer in layers for bounds in (0, 3)]


def test_the_forms_are_all_there_are() -> None:
    methods = ("3x3s1", "k5x5s1", "any")
    suffixes = ("", "_dilated", "_few", "_dilated_few")
    expected = {f"dq_depthwise2d_{method}{suffix}" for method in methods for suffix in suffixes}
    expected |= {f"{name}_staged" for name in expected if "any" not in name}
    assert {_call(layer).function for layer in _forms()} == {f"{name}_w2a8_smlad" for name in expected}


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_all_forms_are_exact_on_the_host(compiler: str) -> None:
    check_on_host(_forms(), DSP, compiler)


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m7", "cortex-m33"])
def test_all_forms_are_exact_on_the_cores(target: str) -> None:
    check_on_core(_forms(), target)


def test_fields_are_for_many_outputs_of_one_channel() -> None:
    layer = _enclosed((24, 24), channels=1, multiplier=17)
    functions = [step.call.function for step in build_schedule(layer.graph(), DSP.features, "nhwc").steps]
    assert not [function for function in functions if "depthwise" in function]

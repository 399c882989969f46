"""Depthwise kernels on planes against the reference: on the host under sanitizers, and in QEMU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployq.alphabet import alphabet
from deployq.codegen.arena import plan_arena
from deployq.codegen.optimize import build_schedule
from deployq.ops import KernelCall
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.window import Window
from tests.codegen.batches import check_on_core, check_on_host, drawn
from tests.codegen.depthwise_layers import DepthwiseLayer, depthwise_layers
from tests.codegen.harness import DSP
from tests.integer_networks import ALPHABETS

_LAYERS = depthwise_layers()


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler"), [(0, "gcc"), (1, "gcc"), (2, "clang")])
def test_layers_are_exact_on_the_host(batch: int, compiler: str) -> None:
    check_on_host(drawn(_LAYERS, batch), DSP, compiler)


_LETTERS = ("midrise-8", "symmetric-8", "midtread-7", "ternary")


def _shifted_layers() -> list[DepthwiseLayer]:
    """Stages that shift, which the kernels for 3x3 do to the weights where these fit 16 bits."""
    return [
        replace(_enclosed((11, 12), stride), letters=_index(name), bounds=0, zero_point=None, shift=shift)
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
    plain = replace(_enclosed((6, 6)), letters=_index(letters), bounds=0, zero_point=None)
    usual = _stage_shift(plain)
    for total, folded in ((largest, True), (largest + 1, False)):
        layer = replace(plain, shift=total - usual)
        assert _stage_shift(layer) == total
        call = _call(layer)
        assert call.parameters["stage.shift"] == (0 if folded else total)
        assert ("staged" in call.function) != folded


def _index(letters: str) -> int:
    return next(i for i, one in enumerate(ALPHABETS) if one == alphabet(letters))


def _stage_shift(layer: DepthwiseLayer) -> int:
    ops = (node.op for node in layer.graph().nodes)
    return next(op.accumulation.stage.shift for op in ops if isinstance(op, IntegerConv2d))


def _call(layer: DepthwiseLayer) -> KernelCall:
    steps = build_schedule(layer.graph(), DSP.features, "nhwc").steps
    return next(step.call for step in steps if "depthwise" in step.call.function)


def _enclosed(size: tuple[int, int], stride: int = 1, multiplier: int = 1) -> DepthwiseLayer:
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1))
    return DepthwiseLayer(8, size, window, multiplier, 2, 1, -128, "", True, 1)


@pytest.mark.parametrize(
    ("layer", "in_place"),
    [
        (_enclosed((48, 48)), True),
        (_enclosed((25, 5)), True),
        (_enclosed((12, 12), stride=2), True),
        (_enclosed((12, 12), multiplier=2), False),
    ],
)
def test_a_layer_takes_the_place_of_its_input(layer: DepthwiseLayer, in_place: bool) -> None:
    schedule = build_schedule(layer.graph(), DSP.features, "nhwc")
    step = next(step for step in schedule.steps if "depthwise" in step.call.function)
    arena = plan_arena(schedule, 8)
    starts = [arena.buffers[buffer] for buffer in (step.inputs[0], step.output)]
    assert (starts[0] == starts[1]) == in_place

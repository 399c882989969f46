"""Pools and additions drawn by hypothesis against the reference: on the host, and in QEMU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import strategies as st

from deployq.alphabet import alphabet
from deployq.arithmetic import INT32_MAX, AddRescale
from deployq.graph import Graph, Shape
from deployq.ops import FloatOperator
from deployq.ops.add import Add, IntegerAdd
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.clip import Clip
from deployq.ops.maxpool2d import MaxPool2d
from deployq.ops.output_stage import Bounds
from deployq.ops.window import Window
from tests.codegen.batches import check_on_core, check_on_host, drawn
from tests.codegen.harness import PORTABLE
from tests.integer_networks import NetworkBuilder

_BOUNDS = (
    Bounds.none(),
    Bounds(np.array(0.0), np.array(np.inf)),
    Bounds(np.array(-0.5), np.array(3.0)),
)


@dataclass(frozen=True)
class _Layer:
    """An operator on an input, or on the input and a clipped copy of it."""

    op: FloatOperator
    shape: Shape
    zero_point: int | None

    def graph(self) -> Graph:
        builder = NetworkBuilder(np.random.default_rng(1), alphabet("binary"), self.shape, self.zero_point)
        both = isinstance(self.op, Add)
        inputs = ["x", builder.add(Clip(-2.0, 3.0), "x")] if both else ["x"]
        return builder.graph(builder.add(self.op, *inputs))


_ZERO_POINTS = st.sampled_from((None, -128, 127, 0, 9))


@st.composite
def _windows(draw: st.DrawFn) -> tuple[Window, tuple[int, int]]:
    """A window no part of which sees padding only, and a size of the image."""
    kernel = draw(st.sampled_from(((2, 2), (3, 3), (1, 1), (1, 4), (5, 2), (3, 1))))
    pads = tuple(draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4))
    dilations = draw(st.sampled_from(((1, 1), (1, 1), (2, 1), (1, 2)))) if not any(pads) else (1, 1)
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    window = Window(kernel, strides, (pads[0], pads[1], pads[2], pads[3]), dilations)
    height, width = (draw(st.integers(extent, 12)) for extent in window.extent)
    return window, (height, width)


@st.composite
def _pools(draw: st.DrawFn) -> _Layer:
    """Average and max pools, some of them over the whole image."""
    channels, zero_point = draw(st.integers(1, 13)), draw(_ZERO_POINTS)
    if draw(st.booleans()):
        size = draw(st.sampled_from(((1, 1), (3, 4), (16, 16), (1, 257), (17, 31))))
        return _Layer(AveragePool2d(Window(size)), (channels, *size), zero_point)
    window, size = draw(_windows())
    if draw(st.booleans()):
        return _Layer(MaxPool2d(window), (channels, *size), zero_point)
    return _Layer(AveragePool2d(window, draw(st.booleans())), (channels, *size), zero_point)


@st.composite
def _additions(draw: st.DrawFn) -> _Layer:
    shape = draw(st.sampled_from(((1,), (3,), (8,), (37,), (2, 3, 5), (4, 4, 4), (13, 7, 3))))
    return _Layer(Add(draw(st.sampled_from(_BOUNDS))), shape, draw(_ZERO_POINTS))


_LAYERS = st.one_of(_pools(), _pools(), _additions())


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler"), [(0, "gcc"), (1, "gcc"), (2, "clang")])
def test_layers_are_exact_on_the_host(batch: int, compiler: str) -> None:
    check_on_host(drawn(_LAYERS, batch), PORTABLE, compiler)


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("batch", "target"),
    [
        *((batch, "cortex-m4") for batch in (3, 4, 5)),
        (6, "cortex-m33"),
        (7, "cortex-m3"),
        (8, "cortex-m0plus"),
    ],
)
def test_layers_are_exact_on_the_cores(batch: int, target: str) -> None:
    check_on_core(drawn(_LAYERS, batch), target)


def _largest_sum(call_parameters: dict[str, int]) -> int:
    """What the C code can reach, by its own parameters."""
    multipliers = call_parameters["multiplier_a"] + call_parameters["multiplier_b"]
    return 128 * multipliers + abs(call_parameters["rounding_bias"])


def test_the_zero_point_joins_the_bias_only_while_the_sum_fits() -> None:
    op = IntegerAdd(AddRescale((1 << 20, 1 << 19), 20), (0, 0), -128, -128, 127)
    folded = dict(op.kernel([(8,)]).parameters)
    assert folded["direct"] == 1
    assert folded["rounding_bias"] == (1 << 19) - (128 << 20)
    # The largest multiplier that still fits, and the next one.
    spare = (INT32_MAX - abs(folded["rounding_bias"])) // 128 - (1 << 19)
    for multiplier, direct in ((spare, 1), (spare + 1, 0)):
        call = replace(op, rescale=AddRescale((multiplier, 1 << 19), 20)).kernel([(8,)])
        assert call.parameters["direct"] == direct
        assert _largest_sum(dict(call.parameters)) <= INT32_MAX
    assert replace(op, high=126).kernel([(8,)]).parameters["direct"] == 0

"""A stripe of a layer: its operator on the lines it reads gives rows of the whole output."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from deployq.alphabet import alphabet
from deployq.codegen.stripes import Stripe, stripes_of
from deployq.graph import Graph, Shape
from deployq.ops import Case, FloatOperator, IntegerOperator
from deployq.ops.add import Add
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.clip import Clip
from deployq.ops.conv2d import Conv2d
from deployq.ops.maxpool2d import MaxPool2d
from deployq.ops.window import Window
from tests.integer_networks import Int8Array, operator_cases, samples, single_node

_CASES = {f"{kind} {case.name}": case for kind, case in operator_cases()}

#: Kinds of operators that work on the rows of an image.
_ON_ROWS = (Conv2d, MaxPool2d, AveragePool2d, Add, Clip)


def _operator(graph: Graph) -> tuple[IntegerOperator, list[Shape]]:
    """The last operator of a graph, and the shapes of its inputs."""
    node = graph.nodes[-1]
    assert isinstance(node.op, IntegerOperator)
    return node.op, list(graph.input_shapes(node))


def _inputs(graph: Graph, seed: int) -> list[Int8Array]:
    """Four samples of each input of the last operator."""
    values = {graph.input: samples(graph, 4, np.random.default_rng(seed))}
    for node in graph.nodes[:-1]:
        assert isinstance(node.op, IntegerOperator)
        values[node.output] = node.op.run([values[name] for name in node.inputs])
    return [values[name] for name in graph.nodes[-1].inputs]


def _check_stripes(graph: Graph, stripes: tuple[Stripe, ...], rows: int) -> None:
    """The stripes tile the output, and each computes its rows from the lines it reads alone."""
    (op, shapes), inputs = _operator(graph), _inputs(graph, 5)
    whole = op.run(inputs)
    height = whole.shape[2]
    assert [stripe.first for stripe in stripes] == list(range(0, height, rows))
    assert [stripe.last for stripe in stripes] == [*range(rows, height, rows), height]
    for stripe in stripes:
        lines = [values[:, :, stripe.low : stripe.high] for values in inputs]
        assert stripe.rows == stripe.last - stripe.first
        assert list(stripe.shapes) == [one.shape[1:] for one in lines]
        assert all(0 <= stripe.low < stripe.high <= shape[1] for shape in shapes)
        assert stripe.op.output_shape(stripe.shapes) == (whole.shape[1], stripe.rows, whole.shape[3])
        assert np.array_equal(stripe.op.run(lines), whole[:, :, stripe.first : stripe.last])


@pytest.mark.parametrize("rows", range(1, 6))
@pytest.mark.parametrize("name", _CASES)
def test_stripes_of_every_operator_join_to_its_output(name: str, rows: int) -> None:
    case = _CASES[name]
    seed = zlib.crc32(name.encode())
    for letters, zero_point in (("midtread-3", None), ("symmetric-8", 127), ("binary", -128)):
        graph = single_node(case, alphabet(letters), np.random.default_rng(seed), zero_point)
        op, shapes = _operator(graph)
        stripes = stripes_of(op, shapes, rows)
        if isinstance(case.op, _ON_ROWS) and all(len(shape) == 3 for shape in shapes):
            assert stripes is not None
            _check_stripes(graph, stripes, rows)
        else:
            assert stripes is None


def test_images_and_vectors_are_both_among_the_cases() -> None:
    shapes = [
        len(shape) for case in _CASES.values() if isinstance(case.op, _ON_ROWS) for shape in case.shapes
    ]
    assert {1, 3} == set(shapes)
    assert any(not isinstance(case.op, _ON_ROWS) for case in _CASES.values())


@st.composite
def _windowed(draw: st.DrawFn) -> tuple[FloatOperator, Shape]:
    """A convolution or pool with any pads, and the shape of its input."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 3)))
    strides = draw(st.tuples(st.integers(1, 4), st.integers(1, 2)))
    pads = draw(st.tuples(*(st.integers(0, 4),) * 4))
    dilations = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    window = Window(kernel, strides, pads, dilations)
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 5))
    assume(height + pads[0] + pads[2] >= window.extent[0])
    assume(width + pads[1] + pads[3] >= window.extent[1])
    channels = 4
    kind = draw(st.sampled_from(("convolution", "grouped", "depthwise", "max", "average")))
    if kind == "max":
        inside = window.columns(np.ones((1, 1, height, width)))
        assume(inside.any(axis=2).all())  # the largest of nothing is no number
        return MaxPool2d(window), (channels, height, width)
    if kind == "average":
        return AveragePool2d(window, include_pad=True), (channels, height, width)
    groups = {"convolution": 1, "grouped": 2, "depthwise": channels}[kind]
    weight = np.zeros((4, channels // groups, *kernel), np.float32)
    return Conv2d(weight, np.zeros(4), window, groups), (channels, height, width)


#: The last row of the output sees nothing but pads.
_BELOW_THE_IMAGE = AveragePool2d(Window((3, 2), (2, 1), (0, 0, 4, 0)), include_pad=True)


def _sees_padding_only(window: Window, height: int, first: int, last: int) -> bool:
    """Whether the input lines between the first and last tap of some output rows are all pads."""
    top = window.pads[0]
    begin, end = first * window.strides[0] - top, (last - 1) * window.strides[0] - top + window.extent[0]
    return not any(0 <= line < height for line in range(begin, end))


@settings(max_examples=150)
@given(_windowed(), st.integers(1, 6), st.integers(0, 2**32 - 1))
@example((_BELOW_THE_IMAGE, (4, 5, 2)), 1, 0)
@example((_BELOW_THE_IMAGE, (4, 5, 2)), 5, 0)
def test_stripes_of_any_window(layer: tuple[FloatOperator, Shape], rows: int, seed: int) -> None:
    op, shape = layer
    assert isinstance(op, Conv2d | MaxPool2d | AveragePool2d)
    graph = single_node(Case("drawn", op, (shape,)), alphabet("midtread-4"), np.random.default_rng(seed))
    integer, shapes = _operator(graph)
    stripes = stripes_of(integer, shapes, rows)
    height = integer.output_shape(shapes)[1]
    cuts = [(first, min(first + rows, height)) for first in range(0, height, rows)]
    if any(_sees_padding_only(op.window, shape[1], *cut) for cut in cuts):
        assert stripes is None
    else:
        assert stripes is not None
        _check_stripes(graph, stripes, rows)


@settings(max_examples=20)
@given(st.integers(1, 5), st.sampled_from((False, True)))
def test_stripes_of_average_pools_that_leave_pads_out(rows: int, include_pad: bool) -> None:
    op = AveragePool2d(Window((3, 3), (2, 2), (2, 1, 1, 2)), include_pad)
    graph = single_node(Case("drawn", op, ((3, 9, 6),)), alphabet("binary"), np.random.default_rng(rows))
    stripes = stripes_of(*_operator(graph), rows)
    assert stripes is not None
    _check_stripes(graph, stripes, rows)


def test_equal_geometry_means_equal_operators() -> None:
    """Stripes that are told apart by their place alone can share a kernel call."""
    window = Window((3, 3), (2, 1), (1, 1, 2, 1), (2, 1))
    weight = np.zeros((4, 2, 3, 3), np.float32)
    graph = single_node(
        Case("one", Conv2d(weight, np.zeros(4), window), ((2, 61, 5),)),
        alphabet("ternary"),
        np.random.default_rng(1),
    )
    op, shapes = _operator(graph)
    for rows in range(1, 6):
        stripes = stripes_of(op, shapes, rows)
        assert stripes is not None
        first_of = {stripe.geometry: stripe for stripe in reversed(stripes)}
        assert len(first_of) < len(stripes)
        for stripe in stripes:
            twin = first_of[stripe.geometry]
            assert stripe.shapes == twin.shapes
            assert stripe.op.window == twin.op.window  # type: ignore[attr-defined]

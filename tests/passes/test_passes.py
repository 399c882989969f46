"""Each pass keeps the function and has its structural effect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployq.errors import ModelError
from deployq.graph import Graph, Node, Operator, Shape, Tensor, run_graph
from deployq.ops.add import Add
from deployq.ops.affine import Affine
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.clip import Clip
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.maxpool2d import MaxPool2d
from deployq.ops.reshape import Reshape
from deployq.ops.window import Window
from deployq.passes import simplify
from deployq.passes.fold_affine import fold_affine
from deployq.passes.fold_affine_forward import fold_affine_forward
from deployq.passes.fold_clip import fold_clip
from deployq.passes.lower_affine import AFFINE_ALPHABET, lower_affine
from deployq.passes.merge_affine import merge_affine
from deployq.passes.merge_reshape import merge_reshape

RNG = np.random.default_rng(3)
IMAGE = (4, 6, 6)


def chain(shape: Shape, *ops: Operator) -> Graph:
    nodes = [
        Node(f"n{index}", op, (f"t{index}",), f"t{index + 1}", f"s{index}") for index, op in enumerate(ops)
    ]
    return Graph("g", "t0", "t0", (), {"t0": Tensor("t0", shape)}).with_nodes(nodes, output=f"t{len(ops)}")


def conv(channels: int = 4, out: int = 4, groups: int = 1, pad: int = 1) -> Conv2d:
    weight = RNG.normal(size=(out, channels // groups, 3, 3)).astype(np.float32)
    return Conv2d(weight, RNG.normal(size=out), Window((3, 3), pads=(pad,) * 4), groups)


def linear(features: int, out: int = 5) -> Linear:
    return Linear(RNG.normal(size=(out, features)).astype(np.float32), RNG.normal(size=out))


def affine(channels: int = 4, positive: bool = False) -> Affine:
    gain = RNG.normal(size=channels)
    return Affine(np.abs(gain) if positive else gain, RNG.normal(size=channels))


def kinds(graph: Graph) -> list[str]:
    return [node.op.kind for node in graph.nodes]


def same_function(first: Graph, second: Graph) -> None:
    batch = np.random.default_rng(1).normal(size=(3, *first.tensors[first.input].shape)).astype(np.float32)
    expected = run_graph(first, batch)
    np.testing.assert_allclose(run_graph(second, batch), expected, rtol=1e-4, atol=1e-4)


RELU, RELU6 = Clip(0.0, np.inf), Clip(0.0, 6.0)
POOL = Window((2, 2), (2, 2))


@pytest.mark.parametrize(
    ("step", "shape", "ops", "expected"),
    [
        (fold_affine, IMAGE, (conv(), affine()), ["conv2d"]),
        (fold_affine, IMAGE, (conv(groups=2), affine(), affine()), ["conv2d"]),
        (fold_affine, IMAGE, (conv(), MaxPool2d(POOL), affine(positive=True)), ["conv2d", "maxpool2d"]),
        (fold_affine, IMAGE, (conv(), MaxPool2d(POOL), Affine(-np.ones(4), np.ones(4))), None),
        (fold_affine, IMAGE, (conv(), AveragePool2d(POOL), affine()), ["conv2d", "averagepool2d"]),
        (fold_affine, IMAGE, (conv(), AveragePool2d(Window((3, 3), pads=(1,) * 4), True), affine()), None),
        (fold_affine, (4,), (linear(4), affine(5)), ["linear"]),
        (fold_affine, (4,), (linear(4), Reshape((5, 1, 1)), affine(5)), ["linear", "reshape"]),
        (fold_affine, IMAGE, (conv(), Reshape((144,)), affine(144)), None),
        (fold_affine, IMAGE, (conv(), RELU, affine()), None),
        (fold_clip, IMAGE, (conv(), RELU), ["conv2d"]),
        (fold_clip, IMAGE, (conv(), RELU6, Clip(-1.0, 3.0), Clip(4.0, 5.0)), ["conv2d"]),
        (
            fold_clip,
            IMAGE,
            (conv(), MaxPool2d(POOL), Reshape((36,)), RELU),
            ["conv2d", "maxpool2d", "reshape"],
        ),
        (fold_clip, IMAGE, (conv(), AveragePool2d(POOL), RELU), None),
        (fold_clip, IMAGE, (RELU,), None),
        (merge_affine, IMAGE, (affine(), affine(), affine()), ["affine"]),
        (merge_affine, IMAGE, (RELU, Affine(np.ones(4), np.zeros(4)), RELU6), ["clip", "clip"]),
        (fold_affine_forward, IMAGE, (affine(), conv(pad=0)), ["conv2d"]),
        (fold_affine_forward, IMAGE, (affine(), conv(groups=2, pad=0)), ["conv2d"]),
        (fold_affine_forward, IMAGE, (affine(), conv(pad=1)), None),
        (fold_affine_forward, IMAGE, (Affine(np.arange(4.0), np.zeros(4)), conv(pad=1)), ["conv2d"]),
        (fold_affine_forward, IMAGE, (affine(), Reshape((144,)), linear(144)), ["reshape", "linear"]),
        (fold_affine_forward, IMAGE, (Reshape((144,)), affine(144), linear(144)), ["reshape", "linear"]),
        (
            fold_affine_forward,
            (4,),
            (
                affine(),
                Reshape((4, 1, 1)),
                conv(pad=0).__class__(
                    RNG.normal(size=(2, 4, 1, 1)).astype(np.float32), np.zeros(2), Window((1, 1))
                ),
            ),
            ["reshape", "conv2d"],
        ),
        (fold_affine_forward, (4,), (RELU, affine(), linear(4)), None),
        (lower_affine, IMAGE, (affine(),), ["conv2d"]),
        (lower_affine, (4,), (affine(),), ["reshape", "conv2d", "reshape"]),
        (merge_reshape, IMAGE, (Reshape((144,)), Reshape((144, 1, 1)), Reshape((144,))), ["reshape"]),
        (merge_reshape, (4,), (Reshape((4, 1, 1)), Reshape((4,)), RELU), ["clip"]),
    ],
)
def test_pass(step, shape, ops, expected):
    graph = chain(shape, *ops)
    result = step(graph)
    same_function(graph, result)
    if expected is None:
        assert result is graph
    else:
        assert kinds(result) == expected
        assert step(result) is result


def test_conv_relu_batch_norm_becomes_one_convolution():
    gain = np.array([2.0, -3.0, 0.0, 0.5])
    offset = np.array([1.0, 2.0, 3.0, -4.0])
    graph = chain(IMAGE, conv(), RELU6, Affine(gain, offset))
    result = simplify(graph)
    assert kinds(result) == ["conv2d"]
    np.testing.assert_allclose(result.nodes[0].op.bounds.low, [1, -16, 3, -4])
    np.testing.assert_allclose(result.nodes[0].op.bounds.high, [13, 2, 3, -1])
    assert result.nodes[0].source == "s0; s1; s2"
    assert result.nodes[0].name == "n0"
    same_function(graph, result)


def test_constant_channel_keeps_finite_bounds():
    result = fold_affine(chain(IMAGE, conv(), Affine(np.array([0.0, 1, 1, 1]), np.arange(4.0))))
    np.testing.assert_array_equal(result.nodes[0].op.bounds.low, [0, -np.inf, -np.inf, -np.inf])
    np.testing.assert_array_equal(result.nodes[0].op.bounds.high, [0, np.inf, np.inf, np.inf])


def test_weights_beyond_float32_are_refused():
    with pytest.raises(ModelError, match="beyond float32") as caught:
        simplify(chain(IMAGE, conv(), Affine(np.full(4, 1e39), np.zeros(4))))
    assert caught.value.where == "s0; s1"


def test_equal_bounds_stay_one_bound():
    result = simplify(chain(IMAGE, conv(), RELU, Affine(np.arange(1.0, 5.0), np.zeros(4))))
    assert result.nodes[0].op.bounds.low.shape == () == result.nodes[0].op.bounds.high.shape


def test_a_tensor_with_two_readers_is_not_touched():
    nodes = [
        Node("c", conv(), ("x",), "c"),
        Node("r", RELU, ("c",), "r"),
        Node("b", affine(), ("c",), "b"),
        Node("y", Add(), ("r", "b"), "y"),
    ]
    graph = Graph("g", "x", "x", (), {"x": Tensor("x", IMAGE)}).with_nodes(nodes, output="y")
    assert fold_affine(graph) is graph
    assert fold_clip(graph) is graph
    result = simplify(graph)
    assert kinds(result) == ["conv2d", "clip", "conv2d", "add"]
    same_function(graph, result)


def test_a_graph_output_in_the_middle_is_not_touched():
    graph = chain(IMAGE, conv(), RELU)
    middle = graph.with_nodes(graph.nodes, output="t1")
    assert simplify(middle).output == "t1"
    same_function(middle, simplify(middle))


def test_clip_folds_into_addition():
    nodes = [
        Node("a", Add(), ("x", "x"), "a"),
        Node("r", RELU6, ("a",), "y"),
        Node("b", affine(), ("y",), "z"),
    ]
    graph = Graph("g", "x", "x", (), {"x": Tensor("x", IMAGE)}).with_nodes(nodes, output="z")
    result = simplify(graph)
    assert kinds(result) == ["add", "conv2d"]
    assert result.nodes[1].op.fixed_alphabet == AFFINE_ALPHABET
    same_function(graph, result)


IMAGE_OPS = st.sampled_from(
    ["conv", "padded", "affine", "relu", "relu6", "max", "average", "add", "identity"]
)
VECTOR_OPS = st.sampled_from(["linear", "affine", "relu", "column", "add"])


def random_graph(image_ops: Sequence[str], vector_ops: Sequence[str]) -> Graph:
    """A chain over an image, a flatten, a chain over a vector, with residual additions."""
    nodes: list[Node] = []
    shapes: dict[str, Shape] = {"x": (4, 8, 8)}
    current = "x"

    def append(op: Operator, *extra: str) -> None:
        nonlocal current
        inputs = (current, *extra)
        current = f"t{len(nodes)}"
        nodes.append(Node(f"n{len(nodes)}", op, inputs, current))
        shapes[current] = op.output_shape([shapes[name] for name in inputs])

    def apply(name: str) -> None:
        shape = shapes[current]
        earlier = next((tensor for tensor in shapes if shapes[tensor] == shape), current)
        simple = {"relu": RELU, "relu6": RELU6, "identity": Affine(np.ones(shape[0]), np.zeros(shape[0]))}
        if name in simple:
            append(simple[name])
        elif name == "affine":
            append(affine(shape[0]))
        elif name == "add":
            append(Add(), earlier)
        elif name == "linear":
            append(linear(shape[0], 6))
        elif name == "column":
            append(Reshape((shape[0], 1, 1)))
            append(Reshape(shape))
        elif name == "conv" and shape[1] >= 3:
            append(conv(pad=0))
        elif name == "max" and shape[1] >= 2:
            append(MaxPool2d(Window((2, 2))))
        elif name == "average" and shape[1] >= 2:
            append(AveragePool2d(Window((2, 2), pads=(1, 1, 0, 0)), include_pad=len(nodes) % 2 == 0))
        else:
            append(conv())

    for name in image_ops:
        apply(name)
    append(Reshape((int(np.prod(shapes[current])),)))
    for name in vector_ops:
        apply(name)
    empty = Graph("g", "x", "x", (), {"x": Tensor("x", shapes["x"])})
    return empty.with_nodes(nodes, output=current)


@settings(max_examples=60, deadline=None)
@given(st.lists(IMAGE_OPS, max_size=8), st.lists(VECTOR_OPS, max_size=5))
def test_simplify_keeps_the_function(image_ops, vector_ops):
    graph = random_graph(image_ops, vector_ops)
    result = simplify(graph)
    assert "affine" not in kinds(result)
    batch = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float64)
    expected = run_graph(graph, batch)
    scale = np.abs(expected).max() + 1
    np.testing.assert_allclose(run_graph(result, batch), expected, rtol=1e-4, atol=1e-5 * scale)

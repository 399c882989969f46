"""Integer graphs with random parameters, for tests of every executor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.alphabet import Alphabet, alphabet
from deployq.arithmetic import FloatArray
from deployq.graph import Graph, Node, Quantization, Shape, Tensor
from deployq.ops import (
    OPERATOR_MODULES,
    Case,
    FloatOperator,
    IntegerOperator,
    QuantizedWeights,
    WeightedOperator,
)
from deployq.ops.add import Add
from deployq.ops.affine import Affine
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.clip import Clip
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.maxpool2d import MaxPool2d
from deployq.ops.output_stage import Bounds
from deployq.ops.reshape import Reshape
from deployq.ops.softmax import Softmax
from deployq.ops.window import Window

Int8Array = npt.NDArray[np.int8]

#: One alphabet of each family and every width.
ALPHABETS = tuple(
    alphabet(name)
    for name in (
        "binary",
        "ternary",
        "midrise-2",
        "midtread-3",
        "midtread-4",
        "midtread-5",
        "midtread-6",
        "midtread-7",
        "symmetric-8",
        "midrise-8",
    )
)


def random_weights(
    op: WeightedOperator, letters: Alphabet, rng: np.random.Generator, extreme: str = ""
) -> QuantizedWeights:
    """Random levels, scales and biases; `extreme` "low" or "high" makes every level the lowest or highest."""
    out = int(op.weight.shape[0])
    taps = op.weight.size // out
    codes = rng.integers(0, letters.levels, size=(out, taps))
    if extreme:
        codes[:] = 0 if extreme == "low" else letters.levels - 1
    scales: FloatArray = rng.uniform(0.01, 0.04, size=(out,)) / letters.largest
    spread = scales * letters.largest * np.sqrt(taps)
    bias: FloatArray = spread * rng.normal(size=out)
    return QuantizedWeights(letters.decode(codes.astype(np.uint8)), scales, bias, letters)


@dataclass
class NetworkBuilder:
    """Adds operators one by one, quantized with random weights and with ranges seen on random inputs.

    `zero_point`, if given, is that of every tensor.
    """

    rng: np.random.Generator
    letters: Alphabet
    shape: Shape
    zero_point: int | None = None
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Int8Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        drawn = int(self.rng.integers(-128, 128)) if self.zero_point is None else self.zero_point
        self.tensors["x"] = Tensor("x", self.shape, Quantization(0.05, drawn))
        self.values["x"] = self.rng.integers(-128, 128, size=(8, *self.shape), dtype=np.int64).astype(np.int8)

    def _calibrated(self, real: npt.NDArray[np.floating[Any]]) -> Quantization:
        low, high = min(0.0, float(real.min())), max(0.0, float(real.max()))
        scale = max(high - low, 1e-3) / 250
        zero_point = round(-126 - low / scale) if self.zero_point is None else self.zero_point
        return Quantization(scale, min(max(zero_point, -128), 127))

    def add(self, op: FloatOperator, *inputs: str, extreme: str = "") -> str:
        """Append an operator; the name of its output."""
        sources = [self.tensors[name] for name in inputs]
        quantizations = [source.quantization for source in sources if source.quantization is not None]
        real = [
            q.scale * (self.values[n].astype(float) - q.zero_point)
            for n, q in zip(inputs, quantizations, strict=True)
        ]
        integer: IntegerOperator
        if isinstance(op, WeightedOperator):
            weights = random_weights(op, self.letters, self.rng, extreme)
            matrix = (weights.levels * weights.scales[:, np.newaxis]).reshape(op.weight.shape)
            solved: FloatOperator = replace(op, weight=matrix, bias=weights.bias)  # type: ignore[type-var]
            quantization = self._calibrated(solved.run(real))
            integer = op.quantized(weights, quantizations[0], quantization)
        else:
            quantization = op.output_quantization(quantizations, self._calibrated(op.run(real)))
            integer = op.integer(quantizations, quantization)
        output = f"t{len(self.nodes)}"
        name = f"node {len(self.nodes)} {op.kind}"
        self.nodes.append(Node(name, integer, inputs, output, source=f"/{op.kind}/{len(self.nodes)}"))
        shape = op.output_shape([source.shape for source in sources])
        self.tensors[output] = Tensor(output, shape, quantization)
        self.values[output] = integer.run([self.values[name] for name in inputs])
        return output

    def conv(self, source: str, out: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        """A convolution with "same" padding and ReLU."""
        pad = kernel // 2
        window = Window((kernel, kernel), (stride, stride), (pad, pad, pad, pad))
        weight = np.zeros((out, self.tensors[source].shape[0] // groups, kernel, kernel), np.float32)
        relu = Bounds(np.array(0.0), np.array(np.inf))
        return self.add(Conv2d(weight, np.zeros(out), window, groups, relu), source)

    def linear(self, source: str, out: int) -> str:
        """A fully connected layer."""
        weight = np.zeros((out, self.tensors[source].shape[0]), np.float32)
        return self.add(Linear(weight, np.zeros(out)), source)

    def graph(self, output: str, name: str = "network") -> Graph:
        """The finished graph."""
        whole = Graph(name, "x", self.nodes[-1].output, tuple(self.nodes), self.tensors)
        return whole if output == whole.output else whole.with_nodes(self.nodes, output=output)


def operator_cases() -> Iterator[tuple[str, Case]]:
    """(kind, case) of every operator's own test cases that has an integer form."""
    for module in OPERATOR_MODULES:
        for case in getattr(module, "cases", list)():
            if not isinstance(case.op, Affine):
                yield case.op.kind, case


def single_node(
    case: Case,
    letters: Alphabet,
    rng: np.random.Generator,
    zero_point: int | None = None,
    extreme: str = "",
) -> Graph:
    """One operator as a graph; an operator of two inputs gets the graph input and a clipped copy of it."""
    builder = NetworkBuilder(rng, letters, case.shapes[0], zero_point)
    inputs = ["x"]
    if len(case.shapes) == 2:
        inputs.append(builder.add(Clip(-2.0, 3.0), "x"))
    return builder.graph(builder.add(case.op, *inputs, extreme=extreme), case.name)


def residual_network(rng: np.random.Generator, letters: Alphabet) -> Graph:
    """Convolutions, a residual addition, pools, flatten and two fully connected layers, softmax."""
    b = NetworkBuilder(rng, letters, (3, 9, 10))
    stem = b.conv("x", 6, 3)
    branch = b.conv(b.conv(stem, 6, 3, groups=6), 6, 1)
    joined = b.add(Clip(0.0, np.inf), b.add(Add(), branch, stem))
    down = b.conv(joined, 8, 3, stride=2)
    pooled = b.add(MaxPool2d(Window((2, 2), (2, 2), (0, 0, 1, 0))), down)
    flat = b.add(Reshape((int(np.prod(b.tensors[pooled].shape)),)), pooled)
    return b.graph(b.add(Softmax(), b.linear(b.linear(flat, 12), 5)), "residual")


def mobile_network(rng: np.random.Generator, letters: Alphabet) -> Graph:
    """Depthwise separable convolutions, global average pooling, squeeze, a classifier."""
    b = NetworkBuilder(rng, letters, (1, 12, 8))
    x = b.conv("x", 8, 3, stride=2)
    for out, stride in ((12, 1), (16, 2)):
        x = b.conv(b.conv(x, b.tensors[x].shape[0], 3, stride, groups=b.tensors[x].shape[0]), out, 1)
    channels, height, width = b.tensors[x].shape
    pooled = b.add(AveragePool2d(Window((height, width))), x)
    return b.graph(b.linear(b.add(Reshape((channels,)), pooled), 4), "mobile")


def flattening_network(rng: np.random.Generator, letters: Alphabet) -> Graph:
    """A vector becomes an image and back again; the output is a flattened image after a residual sum."""
    b = NetworkBuilder(rng, letters, (5, 4, 3))
    first = b.linear(b.add(Reshape((60,)), "x"), 48)
    image = b.conv(b.add(Reshape((3, 4, 4)), first), 4, 3)
    flat = b.add(Reshape((64,)), image)
    clipped = b.add(Clip(0.0, 2.0), flat)
    return b.graph(b.add(Add(), clipped, flat), "flattening")


def dense_network(rng: np.random.Generator, letters: Alphabet) -> Graph:
    """Three fully connected layers with odd sizes."""
    b = NetworkBuilder(rng, letters, (37,))
    return b.graph(b.linear(b.linear(b.linear("x", 19), 8), 3), "dense")


NETWORKS = (residual_network, mobile_network, flattening_network, dense_network)


def samples(graph: Graph, count: int, rng: np.random.Generator) -> Int8Array:
    """Random int8 inputs (count, *shape); the first ones are extreme: lowest, highest, alternating."""
    shape = graph.tensors[graph.input].shape
    batch = rng.integers(-128, 128, size=(count, *shape), dtype=np.int64).astype(np.int8)
    alternating = np.where(np.arange(batch[0].size) % 2, 127, -128).astype(np.int8).reshape(shape)
    extremes: Sequence[Int8Array] = [np.full(shape, -128, np.int8), np.full(shape, 127, np.int8), alternating]
    for index, extreme in enumerate(extremes[:count]):
        batch[index] = extreme
    return batch

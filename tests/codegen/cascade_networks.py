"""Drawn networks of layers that work on rows, and the spans of them that can be cascades."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deployq.alphabet import alphabet
from deployq.codegen.cascade_search import Cutter, Span, with_cascades
from deployq.codegen.kernels import Core
from deployq.codegen.schedule import Schedule, schedule_on
from deployq.graph import Graph
from deployq.ops.add import Add
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.clip import Clip
from deployq.ops.conv2d import Conv2d
from deployq.ops.maxpool2d import MaxPool2d
from deployq.ops.output_stage import Bounds
from deployq.ops.window import Window
from tests.integer_networks import NetworkBuilder

_LETTERS = ("binary", "midrise-2", "ternary", "midtread-3", "midtread-4", "symmetric-8")
_KERNELS = ((3, 3), (3, 3), (1, 1), (5, 5), (3, 1), (1, 3), (2, 2), (4, 2))


@dataclass(frozen=True)
class DrawnNetwork:
    """A network of convolutions, pools, additions and clamps.

    Attributes:
        seed: of everything that is drawn: layers, weights, which tensors they read.
        layers: how many.
        size: largest height of the input.
    """

    seed: int
    layers: int = 6
    size: int = 24

    def graph(self) -> Graph:
        """The integer graph."""
        return _Drawing(self).graph()


class _Drawing:
    """Adds layers until a network is complete."""

    def __init__(self, network: DrawnNetwork) -> None:
        self.network = network
        self.draw = random.Random(network.seed)
        shape = (
            self.draw.choice((1, 2, 3, 4, 8)),
            self.draw.randint(network.size // 2, network.size),
            self.draw.randint(3, 9),
        )
        zero_point = self.draw.choice((None, None, -128, 127, 5))
        rng = np.random.default_rng(network.seed)
        self.builder = NetworkBuilder(rng, alphabet(_LETTERS[0]), shape, zero_point)
        self.names = ["x"]

    def graph(self) -> Graph:
        """The finished network."""
        while len(self.builder.nodes) < self.network.layers or not self._is_complete():
            self.builder.letters = alphabet(self.draw.choice(_LETTERS))
            self.names.append(self._layer())
        return self.builder.graph(self.names[-1], f"drawn {self.network.seed}")

    def _is_complete(self) -> bool:
        """Whether everything but the last tensor is read."""
        return not self._unread()[:-1]

    def _unread(self) -> list[str]:
        read = {name for node in self.builder.nodes for name in node.inputs}
        return [name for name in self.names if name not in read]

    def _layer(self) -> str:
        """One more layer, most often on the newest tensor; at the end, whatever joins the branches."""
        latest = self.names[-1]
        if len(self.builder.nodes) >= self.network.layers:
            return self._join(self._unread()[0], latest)
        twins = [name for name in self.names[:-1] if self._shape(name) == self._shape(latest)]
        if twins and self.draw.random() < 0.3:
            return self._add(self.draw.choice(twins), latest)
        source = latest if self.draw.random() < 0.8 else self.draw.choice(self.names)
        kinds = (self._convolution,) * 5 + (self._depthwise,) * 3 + (self._pool,) * 2 + (self._clip,)
        return self.draw.choice(kinds)(source)

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.builder.tensors[name].shape

    def _add(self, first: str, second: str) -> str:
        pair = [first, second]
        self.draw.shuffle(pair)
        return self.builder.add(Add(), *pair)

    def _join(self, first: str, second: str) -> str:
        """The sum of two tensors, the larger one brought to the size of the other by a convolution."""
        if self._shape(first) == self._shape(second):
            return self._add(first, second)
        larger, smaller = sorted((first, second), key=lambda name: self._shape(name)[1:], reverse=True)
        # A window that leaves as many rows and columns as the smaller one has, with stride 1.
        channels, *sides = self._shape(larger)
        out, *wanted = self._shape(smaller)
        rows, columns = (max(0, want - side) for want, side in zip(wanted, sides, strict=True))
        kernel = tuple(max(0, side - want) + 1 for want, side in zip(wanted, sides, strict=True))
        window = Window((kernel[0], kernel[1]), pads=(rows // 2, columns, rows - rows // 2, 0))
        weight = np.zeros((out, channels, *kernel), np.float32)
        self.names.append(self.builder.add(Conv2d(weight, np.zeros(out), window), larger))
        return self._add(self.names[-1], smaller)

    def _window(self, source: str, kernel: tuple[int, int], *, dilated: bool, padded: bool = True) -> Window:
        """A window that fits, with "same" pads or any smaller than its kernel."""
        _, height, width = self._shape(source)
        dilations = self.draw.choice(((1, 1), (1, 1), (2, 1), (2, 2))) if dilated else (1, 1)
        strides = self.draw.choice(((1, 1), (1, 1), (2, 2), (1, 2), (2, 1), (3, 1))) if height > 7 else (1, 1)
        extent = Window(kernel, dilations=dilations).extent
        top, left = ((side - 1) // 2 for side in extent)
        pads = (top, left, extent[0] - 1 - top, extent[1] - 1 - left)
        if not padded:
            pads = (0, 0, 0, 0)
        elif self.draw.random() < 0.3:
            free = [self.draw.randint(0, kernel[axis % 2] - 1) for axis in range(4)]
            pads = (free[0], free[1], free[2], free[3])
        window = Window(kernel, strides, pads, dilations)
        fits = height + pads[0] + pads[2] >= extent[0] and width + pads[1] + pads[3] >= extent[1]
        return window if fits else Window((1, 1), strides)

    def _conv(self, source: str, out: int, window: Window, groups: int) -> str:
        weight = np.zeros((out, self._shape(source)[0] // groups, *window.kernel), np.float32)
        relu = Bounds(np.array(0.0), np.array(np.inf))
        bounds = self.draw.choice((relu, Bounds.none()))
        return self.builder.add(Conv2d(weight, np.zeros(out), window, groups, bounds), source)

    def _convolution(self, source: str) -> str:
        channels = self._shape(source)[0]
        groups = self.draw.choice([1, 1, 1, *(part for part in (2, 3) if channels % part == 0)])
        out = groups * self.draw.choice((2, 4, 4, 8, 16)) if self.draw.random() < 0.6 else channels
        window = self._window(source, self.draw.choice(_KERNELS), dilated=True)
        return self._conv(source, out, window, groups)

    def _depthwise(self, source: str) -> str:
        channels = self._shape(source)[0]
        window = self._window(source, (3, 3), dilated=False)
        return self._conv(source, channels, window, channels)

    def _pool(self, source: str) -> str:
        kernel = self.draw.choice(((2, 2), (3, 3), (3, 2)))
        if self.draw.random() < 0.5:
            return self.builder.add(MaxPool2d(self._window(source, kernel, dilated=False)), source)
        padded = self.draw.random() < 0.5
        window = self._window(source, kernel, dilated=False, padded=padded)
        return self.builder.add(AveragePool2d(window, include_pad=padded), source)

    def _clip(self, source: str) -> str:
        return self.builder.add(Clip(-1.0, 2.0), source)


class Striper:
    """Makes cascades of the steps of one network.

    Args:
        graph: integer graph.
        core: that kernels are chosen for.
        io_layout: "nhwc" or "nchw".
    """

    def __init__(self, graph: Graph, core: Core, io_layout: str = "nhwc") -> None:
        self.plain = schedule_on(graph, core, io_layout)
        self._cores = {node.name: core for node in graph.nodes}
        self._cutter = Cutter(graph)

    def with_cascades(self, spans: Sequence[Span]) -> Schedule:
        """The schedule with cascades."""
        return with_cascades(self.plain, spans, self._cutter, self._cores)

    def spans(self, rows: Sequence[int]) -> Iterator[Span]:
        """Every span of the schedule that can be a cascade."""
        count = len(self.plain.steps)
        starts_and_stops = [(start, stop) for start in range(count) for stop in range(start + 2, count + 1)]
        yield from self._possible(Span(*ends, height) for height in rows for ends in starts_and_stops)

    def source_spans(self, rows: Sequence[int]) -> Iterator[Span]:
        """Every span that begins with rows of the network's input."""
        stops = range(1, len(self.plain.steps) + 1)
        yield from self._possible(Span(0, stop, height, source=True) for height in rows for stop in stops)

    def _possible(self, spans: Iterable[Span]) -> Iterator[Span]:
        return (span for span in spans if self.with_cascades([span]).cascades)

    def drawn_spans(self, rows: Sequence[int], seed: int) -> tuple[Span, ...]:
        """Spans that do not overlap, mostly long ones first: the most of a network becomes cascades."""
        draw = random.Random(seed)
        spans = list(self.spans(rows))
        draw.shuffle(spans)
        if draw.random() < 0.7:
            spans.sort(key=lambda span: span.start - span.stop)
        taken: list[Span] = []
        for span in spans:
            if all(span.stop <= other.start or other.stop <= span.start for other in taken):
                taken.append(span)
        return tuple(taken)

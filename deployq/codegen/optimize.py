"""What `--optimize` means for a whole network: a kernel for every layer, by speed, flash or RAM.

Speed and flash are decided layer by layer, see `Core`. RAM is not: only the layer at the peak of the arena
counts, and a kernel with more scratch memory may need less in all, because its output overwrites its input.
Layers executed depth first, see `deployq.codegen.cascade`, keep a few lines of what lies between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from deployq.codegen.arena import plan_arena, smallest_arena
from deployq.codegen.cascade_search import (
    SEARCH_ALIGNMENT,
    STRIPE_ROWS,
    Cutter,
    Span,
    find_source,
    find_spans,
    with_cascades,
)
from deployq.codegen.kernels import Core, kernel_order
from deployq.codegen.schedule import Calls, Schedule, Step, schedule_on
from deployq.errors import UsageError
from deployq.graph import Graph, Node, Shape
from deployq.ops import IntegerOperator
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.linear import IntegerLinear

#: Preferences a layer may be given where RAM counts most, and how much slower they make it, roughly.
_SLOWDOWN = {"balanced": 1.0, "ram": 2.0, "flash": 4.0}

#: Instructions that a stripe costs besides its work, and for each channel: roughly what was measured.
_STRIPE_COST, _STRIPE_COST_PER_CHANNEL = 1200, 16

#: Instructions of a MAC of a depthwise layer relative to others, and of any on a core with Helium.
_PER_DEPTHWISE_MAC, _OF_HELIUM = 2.5, 0.25


def build_schedule(
    graph: Graph,
    features: frozenset[str],
    io_layout: str,
    optimize: str = "balanced",
    input_rows: bool = False,
) -> Schedule:
    """Order the kernel calls of an integer graph.

    Args:
        graph: integer graph; every node is an `IntegerOperator`.
        features: instruction set extensions of the target.
        io_layout: "nhwc" or "nchw": order of the function's input and output.
        optimize: "balanced", "speed" or "flash", see `Core`; "ram": the smallest arena found; what makes
            layers slower must save much, see `_SmallestArena.score`.
        input_rows: the caller gives the input row by row; the layers at the beginning are executed depth
            first.

    Raises:
        ModelError: some layer cannot be proven safe.
        UsageError: the input cannot be read row by row.
    """
    if input_rows:
        check_input_rows(graph.tensors[graph.input].shape, io_layout)
    if optimize == "ram":
        return _SmallestArena(graph, features, io_layout, input_rows).run()
    schedule = schedule_on(graph, Core(features, optimize), io_layout)
    if not input_rows:
        return schedule
    cores = dict.fromkeys((node.name for node in graph.nodes), Core(features, optimize))
    cutter = Cutter(graph)
    return with_cascades(schedule, [_source(graph, schedule, cutter, cores)], cutter, cores)


def check_input_rows(shape: Shape, io_layout: str) -> None:
    """Refuse inputs that have no rows one after the other.

    Args:
        shape: of the network's input, per sample.
        io_layout: "nhwc" or "nchw": order of the function's input.

    Raises:
        UsageError: it is not an image, or its channels come one after the other.
    """
    if len(shape) != 3:
        raise _no_rows(f"it is a vector of {math.prod(shape)} values, not an image", "leave it out")
    if io_layout == "nchw" and kernel_order(shape) is not None:
        raise _no_rows("its channels come one after the other", "--io-layout nhwc")


def _no_rows(why: str, hint: str) -> UsageError:
    return UsageError("the input cannot be read row by row", where="--input-rows", why=why, hint=hint)


def _source(graph: Graph, schedule: Schedule, cutter: Cutter, cores: Mapping[str, Core]) -> Span:
    """The span that begins with rows of the input."""
    span = find_source(schedule, cutter, cores)
    if span is None:
        raise _no_rows(
            f"{schedule.steps[0].name!r} does not work on rows of it, or later layers need all of it",
            "the first layer must be a convolution, a pool or element by element",
        )
    return span


@dataclass(frozen=True)
class _Choice:
    """Preferences by node name, and the layers that are executed depth first."""

    preferences: Mapping[str, str]
    spans: tuple[Span, ...] = ()


class _SmallestArena:
    """The search for `--optimize ram`.

    Args:
        graph: integer graph.
        features: instruction set extensions of the target.
        io_layout: order of the function's input and output.
        input_rows: the caller gives the input row by row.
    """

    def __init__(
        self, graph: Graph, features: frozenset[str], io_layout: str, input_rows: bool = False
    ) -> None:
        self.graph, self.features, self.io_layout = graph, features, io_layout
        self.input_rows = input_rows
        self.calls: Calls = {}
        self.cutter = Cutter(graph)

    def schedule(self, choice: _Choice) -> Schedule:
        """The schedule of a choice."""
        cores = self.cores(choice)
        plain = schedule_on(self.graph, Core(self.features), self.io_layout, cores, self.calls)
        return with_cascades(plain, choice.spans, self.cutter, cores)

    def cores(self, choice: _Choice) -> dict[str, Core]:
        """What kernels are chosen for, by node name."""
        nodes = {node.name: choice.preferences.get(node.name, "balanced") for node in self.graph.nodes}
        return {name: Core(self.features, optimize) for name, optimize in nodes.items()}

    def score(self, choice: _Choice, limit: float = math.inf) -> float:
        """Bytes of the arena times the root of the slowdown, or something else that is beyond the limit."""
        schedule = self.schedule(choice)
        if self.input_rows and not schedule.reads_rows:
            return math.inf
        slowness = math.sqrt(self.slowdown(choice, schedule))
        bound = smallest_arena(schedule, SEARCH_ALIGNMENT) * slowness
        return bound if bound >= limit else plan_arena(schedule, SEARCH_ALIGNMENT).bytes * slowness

    def slowdown(self, choice: _Choice, schedule: Schedule) -> float:
        """Estimated instructions relative to those of the fastest choice."""
        before = after = 1.0
        stripes = {index: len(calls) for one in schedule.cascades for index, calls in one.calls.items()}
        for index, step in enumerate(schedule.steps):
            work = self._work(step)
            before += work
            after += work * _SLOWDOWN[choice.preferences.get(step.name, "balanced")]
            if step.node is not None and stripes.get(index, 1) > 1:
                channels = self.graph.tensors[step.node.output].shape[0]
                after += stripes[index] * (_STRIPE_COST + _STRIPE_COST_PER_CHANNEL * channels)
        return after / before

    def _work(self, step: Step) -> float:
        """Instructions of a layer, roughly."""
        op = step.node.op if step.node else None
        if step.node is None or not isinstance(op, IntegerOperator):
            return 0.0
        macs = op.macs(self.graph.input_shapes(step.node))
        depthwise = isinstance(op, IntegerConv2d) and op.weight_shape[1] == 1
        per_mac = _PER_DEPTHWISE_MAC if depthwise else 1.0
        return macs * per_mac * (_OF_HELIUM if "mve" in self.features else 1.0)

    def run(self) -> Schedule:
        """The choice of the best score that small steps lead to."""
        names = [node.name for node in self.graph.nodes if _has_a_choice(node)]
        starts = [start for optimize in _SLOWDOWN for start in self._starts(dict.fromkeys(names, optimize))]
        best = min(starts, key=self.score)
        score = self.score(best)
        for trials in (
            *(partial(self._preferring, name) for name in names),
            *(partial(self._striped, index) for index in range(len(best.spans))),
        ):
            for trial in trials(best):
                if (lower := self.score(trial, score)) < score:
                    best, score = trial, lower
        return self.schedule(best)

    def _starts(self, preferences: dict[str, str]) -> list[_Choice]:
        """The choices of some preferences with the cascades that need the least memory, and without."""
        plain = _Choice(preferences)
        schedule, cores = self.schedule(plain), self.cores(plain)
        if self.input_rows:
            plain = _Choice(preferences, (_source(self.graph, schedule, self.cutter, cores),))
        return [plain, _Choice(preferences, find_spans(schedule, self.cutter, cores, plain.spans))]

    @staticmethod
    def _preferring(name: str, choice: _Choice) -> list[_Choice]:
        """The choice with another preference of one layer."""
        return [
            replace(choice, preferences={**choice.preferences, name: optimize})
            for optimize in _SLOWDOWN
            if optimize != choice.preferences[name]
        ]

    @staticmethod
    def _striped(index: int, choice: _Choice) -> list[_Choice]:
        """The choice with other stripes in one span."""
        return [
            replace(choice, spans=(*choice.spans[:index], span, *choice.spans[index + 1 :]))
            for span in (replace(choice.spans[index], rows=rows) for rows in STRIPE_ROWS)
        ]


def _has_a_choice(node: Node) -> bool:
    return isinstance(node.op, IntegerConv2d | IntegerLinear)

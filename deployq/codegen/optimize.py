"""What `--optimize` means for a whole network: a kernel for every layer, by speed, flash or RAM.

Speed and flash are decided layer by layer, see `Core`. RAM is not: only the layer at the peak of the arena
counts, and a kernel with more scratch memory may need less in all, because its output overwrites its input.
Layers executed depth first, see `deployq.codegen.cascade`, keep a few lines of what lies between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deployq.arithmetic import INT32_MAX
from deployq.codegen.arena import plan_arena, smallest_arena
from deployq.codegen.cascade_search import STRIPE_ROWS, Cutter, Span, find_spans, with_cascades
from deployq.codegen.kernels import Core
from deployq.codegen.schedule import Calls, Schedule, schedule_on
from deployq.graph import Graph, Node
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.linear import IntegerLinear

#: Preferences a layer may be given where RAM counts most, the fastest first.
_CANDIDATES = ("balanced", "ram", "flash")

#: Of the arenas that are compared.
_ALIGNMENT = 4

#: Part of the smallest arena that is given for speed: one in so many bytes.
_MARGIN = 16


def build_schedule(
    graph: Graph, features: frozenset[str], io_layout: str, optimize: str = "balanced"
) -> Schedule:
    """Order the kernel calls of an integer graph.

    Args:
        graph: integer graph; every node is an `IntegerOperator`.
        features: instruction set extensions of the target.
        io_layout: "nhwc" or "nchw": order of the function's input and output.
        optimize: "balanced", "speed" or "flash", see `Core`; "ram": the smallest arena found, and what is
            faster within a sixteenth more.

    Raises:
        ModelError: some layer cannot be proven safe.
    """
    if optimize == "ram":
        return _SmallestArena(graph, features, io_layout).run()
    return schedule_on(graph, Core(features, optimize), io_layout)


@dataclass(frozen=True)
class _Choice:
    """Preferences by node name, and the layers that are executed depth first."""

    preferences: Mapping[str, str]
    spans: tuple[Span, ...] = ()

    def preferring(self, name: str, optimize: str) -> _Choice:
        """The choice with another preference of one layer."""
        return replace(self, preferences={**self.preferences, name: optimize})

    def striped(self, index: int, rows: int) -> _Choice:
        """The choice with other stripes in one span."""
        spans = list(self.spans)
        spans[index] = replace(spans[index], rows=rows)
        return replace(self, spans=tuple(spans))


class _SmallestArena:
    """The search for `--optimize ram`.

    Args:
        graph: integer graph.
        features: instruction set extensions of the target.
        io_layout: order of the function's input and output.
    """

    def __init__(self, graph: Graph, features: frozenset[str], io_layout: str) -> None:
        self.graph, self.features, self.io_layout = graph, features, io_layout
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

    def bytes(self, choice: _Choice, limit: int) -> int:
        """Size of the arena, or one that is beyond the limit as well."""
        schedule = self.schedule(choice)
        bound = smallest_arena(schedule, _ALIGNMENT)
        return bound if bound > limit else plan_arena(schedule, _ALIGNMENT).bytes

    def run(self) -> Schedule:
        """The smallest arena found, then what is faster in an arena that is hardly larger."""
        names = [node.name for node in self.graph.nodes if _has_a_choice(node)]
        starts = [self._start(dict.fromkeys(names, optimize)) for optimize in _CANDIDATES]
        sizes = [self.bytes(start, INT32_MAX) for start in starts]
        size = min(sizes)
        best = starts[sizes.index(size)]
        for name in names:
            for optimize in _CANDIDATES:
                trial = best.preferring(name, optimize)
                if (smaller := self.bytes(trial, size - 1)) < size:
                    best, size = trial, smaller
        return self.schedule(self._faster(best, names, size + size // _MARGIN))

    def _start(self, preferences: dict[str, str]) -> _Choice:
        choice = _Choice(preferences)
        return _Choice(preferences, find_spans(self.schedule(choice), self.cutter, self.cores(choice)))

    def _faster(self, choice: _Choice, names: Sequence[str], limit: int) -> _Choice:
        """The choice with faster kernels, larger stripes and fewer cascades, as far as a limit allows."""
        for name in names:
            for optimize in _CANDIDATES[: _CANDIDATES.index(choice.preferences[name])]:
                trial = choice.preferring(name, optimize)
                if self.bytes(trial, limit) <= limit:
                    choice = trial
                    break
        for index in reversed(range(len(choice.spans))):
            without = replace(choice, spans=choice.spans[:index] + choice.spans[index + 1 :])
            larger = [rows for rows in STRIPE_ROWS if rows > choice.spans[index].rows]
            trials = [without, *(choice.striped(index, rows) for rows in larger)]
            choice = next((trial for trial in trials if self.bytes(trial, limit) <= limit), choice)
        return choice


def _has_a_choice(node: Node) -> bool:
    return isinstance(node.op, IntegerConv2d | IntegerLinear)

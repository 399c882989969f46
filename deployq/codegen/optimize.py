"""What `--optimize` means for a whole network: a kernel for every layer, by speed, flash or RAM.

Speed and flash are decided layer by layer, see `Core`. RAM is not: only the layer at the peak of the arena
counts, and a kernel with more scratch memory may need less in all, because its output overwrites its input.
"""

from __future__ import annotations

from deployq.codegen.arena import plan_arena
from deployq.codegen.kernels import Core
from deployq.codegen.schedule import Calls, Schedule, schedule_on
from deployq.graph import Graph, Node
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.linear import IntegerLinear

#: Preferences a layer may be given where RAM counts most, the fastest first.
_CANDIDATES = ("balanced", "ram", "flash")

#: Of the arenas that are compared.
_ALIGNMENT = 4


def build_schedule(
    graph: Graph, features: frozenset[str], io_layout: str, optimize: str = "balanced"
) -> Schedule:
    """Order the kernel calls of an integer graph.

    Args:
        graph: integer graph; every node is an `IntegerOperator`.
        features: instruction set extensions of the target.
        io_layout: "nhwc" or "nchw": order of the function's input and output.
        optimize: "balanced", "speed" or "flash", see `Core`; "ram": the smallest arena found, and the
            fastest kernels within it.

    Raises:
        ModelError: some layer cannot be proven safe.
    """
    if optimize == "ram":
        return _smallest_arena(graph, features, io_layout)
    return schedule_on(graph, Core(features, optimize), io_layout)


def _smallest_arena(graph: Graph, features: frozenset[str], io_layout: str) -> Schedule:
    """The best of the preferences for all layers, improved layer by layer."""
    calls: Calls = {}

    def planned(preferences: dict[str, str]) -> tuple[int, int, Schedule]:
        cores = {name: Core(features, optimize) for name, optimize in preferences.items()}
        schedule = schedule_on(graph, Core(features), io_layout, cores, calls)
        slowness = sum(_CANDIDATES.index(optimize) for optimize in preferences.values())
        return plan_arena(schedule, _ALIGNMENT).bytes, slowness, schedule

    names = [node.name for node in graph.nodes if _has_a_choice(node)]
    starts = [dict.fromkeys(names, optimize) for optimize in _CANDIDATES]
    chosen = min(starts, key=lambda preferences: planned(preferences)[:2])
    best = planned(chosen)
    for name in names:
        for optimize in _CANDIDATES:
            trial = planned({**chosen, name: optimize})
            if trial[:2] < best[:2]:
                best, chosen = trial, {**chosen, name: optimize}
    return best[2]


def _has_a_choice(node: Node) -> bool:
    return isinstance(node.op, IntegerConv2d | IntegerLinear)

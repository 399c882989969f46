"""--optimize ram: what it finds is small, is the same every time, and is better for cascades."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from deployq.alphabet import Alphabet, alphabet
from deployq.codegen.arena import plan_arena
from deployq.codegen.cascade_search import Cutter, find_spans, with_cascades
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions
from deployq.codegen.kernels import OPTIMIZE, Core
from deployq.codegen.optimize import build_schedule
from deployq.codegen.schedule import schedule_on
from deployq.graph import Graph
from tests.codegen.cascade_networks import DrawnNetwork
from tests.codegen.harness import DSP
from tests.codegen.line_memory import execute
from tests.integer_networks import NetworkBuilder, residual_network

_Make = Callable[[np.random.Generator, Alphabet], Graph]

#: A slower choice must save at least so much, and stripes of a row count as 8 % slower.
_TRADE = math.sqrt(1.08)


@pytest.mark.parametrize("seed", range(5))
def test_the_arena_is_hardly_ever_larger(seed: int) -> None:
    graph = DrawnNetwork(200 + seed).graph()
    features = (frozenset({"dsp"}), frozenset({"armv6m"}))[seed % 2]
    balanced, ram = (
        plan_arena(build_schedule(graph, features, "nhwc", optimize), 4).bytes
        for optimize in ("balanced", "ram")
    )
    assert ram <= _TRADE * balanced


@pytest.mark.parametrize("seed", range(4))
def test_spans_make_the_arena_smaller_one_by_one(seed: int) -> None:
    graph = DrawnNetwork(300 + seed, layers=9).graph()
    core = Core(frozenset({"dsp"}))
    cores = dict.fromkeys((node.name for node in graph.nodes), core)
    plain, cutter = schedule_on(graph, core, "nhwc"), Cutter(graph)
    spans = find_spans(plain, cutter, cores)
    sizes = []
    for count in range(len(spans) + 1):
        schedule = with_cascades(plain, spans[:count], cutter, cores)
        assert len(schedule.cascades) == count
        arena = plan_arena(schedule, 4)
        execute(graph, schedule, arena, spans[:count])
        sizes.append(arena.bytes)
    assert sizes == sorted(set(sizes), reverse=True)


def _separable(rng: np.random.Generator, letters: Alphabet) -> Graph:
    """Depthwise separable convolutions of an image as the larger ones of a camera."""
    builder = NetworkBuilder(rng, letters, (3, 48, 24))
    x = builder.conv("x", 8, 3, 2)
    for out in (16, 16):
        channels = builder.tensors[x].shape[0]
        x = builder.conv(builder.conv(x, channels, 3, groups=channels), out, 1)
    return builder.graph(builder.conv(x, 16, 3, 2))


@pytest.mark.parametrize("make", [residual_network, _separable])
def test_cascades_need_less_than_any_kernels_layer_by_layer(make: _Make) -> None:
    graph = make(np.random.default_rng(2), alphabet("midrise-2"))
    layer_by_layer = [
        plan_arena(schedule_on(graph, Core(DSP.features, optimize), "nhwc"), 4).bytes for optimize in OPTIMIZE
    ]
    schedule = build_schedule(graph, DSP.features, "nhwc", "ram")
    assert schedule.cascades
    assert plan_arena(schedule, 4).bytes < 0.9 * min(layer_by_layer)


_PRINT_DIGEST = """
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions
from tests.codegen.cascade_networks import DrawnNetwork
from tests.codegen.harness import DSP

for seed in range(200, 203):
    print(generate(DrawnNetwork(seed).graph(), DSP, EmitOptions(optimize="ram")).sha256)
"""


@pytest.mark.slow
def test_the_choice_is_the_same_every_time() -> None:
    """In other processes as well, whose sets have other orders."""
    found = [
        subprocess.run(
            [sys.executable, "-c", _PRINT_DIGEST],
            env={**os.environ, "PYTHONHASHSEED": order},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for order in ("1", "2")
    ]
    assert found[0] == found[1] and len(set(found[0])) == 3


def test_a_library_says_how_many_stripes_its_layers_have() -> None:
    library = generate(DrawnNetwork(201).graph(), DSP, EmitOptions(optimize="ram"))
    assert max(layer.stripes for layer in library.layers) > 1
    assert all(layer.stripes == 1 for layer in generate(DrawnNetwork(201).graph(), DSP, EmitOptions()).layers)

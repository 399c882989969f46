"""Cascades on memory that holds names of lines: every stripe finds what it reads, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from deployq.alphabet import Alphabet, alphabet
from deployq.codegen.arena import Arena, plan_arena
from deployq.codegen.cascade import has_equal_tables
from deployq.codegen.cascade_search import Span
from deployq.codegen.kernels import Core
from deployq.codegen.schedule import Instruction, Schedule
from deployq.graph import Graph
from deployq.ops import KernelCall
from deployq.ops.add import Add
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.clip import Clip
from deployq.ops.reshape import Reshape
from deployq.ops.window import Window
from tests.codegen.cascade_networks import DrawnNetwork, Striper
from tests.codegen.line_memory import LostLineError, execute
from tests.integer_networks import NetworkBuilder, mobile_network, residual_network

_CORE = Core(frozenset({"dsp"}))
_ROWS = (1, 2, 3, 4)

_Make = Callable[[np.random.Generator, Alphabet], Graph]


def _chain(rng: np.random.Generator, letters: Alphabet) -> Graph:
    """Convolutions one after the other, one of them strided; input and output lie in the arena."""
    builder = NetworkBuilder(rng, letters, (2, 21, 3))
    x = builder.add(Clip(-1.0, 1.0), "x")
    for out, kernel, stride in ((4, 3, 1), (3, 5, 1), (8, 3, 2), (2, 1, 1)):
        x = builder.conv(x, out, kernel, stride)
    return builder.graph(builder.add(Clip(-1.0, 1.0), x), "chain")


def _growing(rng: np.random.Generator, letters: Alphabet) -> Graph:
    """The output is larger than the input, and is written ahead of what is still read."""
    builder = NetworkBuilder(rng, letters, (2, 13, 3))
    x = builder.conv(builder.conv(builder.add(Clip(-1.0, 1.0), "x"), 3, 5), 6, 3)
    return builder.graph(builder.add(Clip(-1.0, 1.0), x), "growing")


def _branches(rng: np.random.Generator, letters: Alphabet) -> Graph:
    """Additions across several layers; one tensor is read long after."""
    builder = NetworkBuilder(rng, letters, (2, 11, 4))
    stem = builder.conv("x", 4, 3)
    left = builder.conv(builder.conv(stem, 4, 5), 4, 3)
    right = builder.conv(stem, 4, 1)
    both = builder.add(Add(), left, right)
    deep = builder.conv(builder.conv(both, 4, 3), 4, 3)
    again = builder.add(Add(), builder.add(Add(), deep, both), deep)
    return builder.graph(builder.add(Add(), again, stem), "branches")


_NETWORKS: tuple[_Make, ...] = (_chain, _growing, _branches, residual_network, mobile_network)


@cache
def _graph(make: _Make) -> Graph:
    return make(np.random.default_rng(5), alphabet("midrise-2"))


def _seeds(quick: int, count: int) -> list[object]:
    """So many seeds, the first few of them for the quick tests."""
    return [seed if seed < quick else pytest.param(seed, marks=pytest.mark.slow) for seed in range(count)]


def _execute(graph: Graph, schedule: Schedule, spans: Sequence[Span]) -> None:
    execute(graph, schedule, plan_arena(schedule, 4), spans)


@pytest.mark.parametrize("rows", _ROWS)
@pytest.mark.parametrize("io_layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("make", _NETWORKS)
def test_every_stripe_finds_its_lines(make: _Make, io_layout: str, rows: int) -> None:
    graph = _graph(make)
    striper = Striper(graph, _CORE, io_layout)
    spans = list(striper.spans([rows]))
    assert spans
    for span in spans:
        _execute(graph, striper.with_cascades([span]), [span])


@pytest.mark.parametrize("seed", _seeds(5, 25))
def test_every_stripe_of_drawn_networks_finds_its_lines(seed: int) -> None:
    graph = DrawnNetwork(seed).graph()
    striper = Striper(graph, Core(frozenset({("dsp", "armv6m")[seed % 2]})))
    spans = list(striper.spans(_ROWS))
    assert spans
    choices = [[span] for span in spans[:: 1 + len(spans) // 12]]
    choices += [list(striper.drawn_spans(_ROWS, turn)) for turn in range(3)]
    for chosen in choices:
        schedule = striper.with_cascades(chosen)
        assert len(schedule.cascades) == len(chosen)
        _execute(graph, schedule, chosen)


@pytest.mark.parametrize("make", _NETWORKS)
def test_every_stripe_finds_its_lines_where_the_input_comes_row_by_row(make: _Make) -> None:
    graph = _graph(make)
    striper = Striper(graph, _CORE)
    spans = list(striper.source_spans(_ROWS))
    assert {span.stop for span in spans} >= {1, 2, 3}
    for span in spans:
        _execute(graph, striper.with_cascades([span]), [span])


@pytest.mark.parametrize("seed", _seeds(3, 12))
def test_every_stripe_of_drawn_networks_finds_its_lines_of_an_input_that_comes_row_by_row(seed: int) -> None:
    graph = DrawnNetwork(50 + seed).graph()
    striper = Striper(graph, _CORE)
    spans = list(striper.source_spans(_ROWS))
    later = striper.drawn_spans(_ROWS, seed)
    assert spans
    for span in spans:
        chosen = [span, *(other for other in later if other.start >= span.stop)]
        _execute(graph, striper.with_cascades(chosen), chosen)


def _in_arena(schedule: Schedule) -> Iterator[tuple[int, int, int]]:
    """Inputs and outputs of cascades that may overlap in the arena, and the lead."""
    for cascade in schedule.cascades:
        for (source, result), lead in cascade.leads.items():
            if schedule.buffers[source].place == schedule.buffers[result].place == "arena":
                yield source, result, lead


def _arena(schedule: Schedule, source: int, result: int, distance: int) -> Arena:
    """An arena with everything far apart but two buffers: one starts so many bytes before the other."""
    sizes = [buffer.size for buffer in schedule.buffers]
    room = max(*sizes, *(step.call.scratch_bytes for step in schedule.steps)) + 1000
    room = max(room, *(cascade.scratch_bytes for cascade in schedule.cascades))
    offsets = [(index + 1) * 4 * room for index in range(len(sizes))]
    offsets[result] = offsets[source] - distance
    buffers = tuple(
        offset if buffer.place == "arena" else None
        for offset, buffer in zip(offsets, schedule.buffers, strict=True)
    )
    return Arena(buffers, (0,) * len(schedule.steps), (len(sizes) + 2) * 4 * room, 4)


def _is_executed(graph: Graph, schedule: Schedule, arena: Arena, spans: Sequence[Span]) -> bool:
    try:
        execute(graph, schedule, arena, spans)
    except LostLineError:
        return False
    return True


@pytest.mark.parametrize("make", [_chain, _growing, _branches])
def test_outputs_overwrite_inputs_as_far_as_they_may_and_no_further(make: _Make) -> None:
    graph = _graph(make)
    striper = Striper(graph, _CORE)
    leads = set()
    for span in striper.spans(_ROWS):
        schedule = striper.with_cascades([span])
        for source, result, lead in _in_arena(schedule):
            leads.add(lead)
            size, written = schedule.buffers[source].size, schedule.buffers[result].size
            assert lead <= written
            near = max(lead, -size)
            for distance in {*range(near - 3, near + 4), -size, 0, written}:
                arena = _arena(schedule, source, result, distance)
                allowed = distance >= lead or distance <= -size
                assert _is_executed(graph, schedule, arena, [span]) == allowed, (span, distance, lead)
    assert len(leads) > 1


def _with(schedule: Schedule, **changes: object) -> Schedule:
    """The schedule with a change in its only cascade."""
    (cascade,) = schedule.cascades
    return replace(schedule, cascades=(replace(cascade, **changes),))  # type: ignore[arg-type]


def _faults(schedule: Schedule) -> Iterator[tuple[str, Schedule]]:
    """The schedule with one thing wrong in its only cascade, whose stripes have one row."""
    (cascade,) = schedule.cascades
    instructions = cascade.instructions
    # A stripe is a row.
    lines = {one.output: one.bytes for one in instructions if one.step is not None}
    for buffer, size in cascade.sizes.items():
        sizes = {**cascade.sizes, buffer: size - lines[buffer]}
        yield f"buffer {buffer} a line smaller", _with(schedule, sizes=sizes)
    for index, one in enumerate(instructions):
        for what, wrong in _wrong(one, lines[one.output]):
            changed = (*instructions[:index], wrong, *instructions[index + 1 :])
            yield f"instruction {index} {what}", _with(schedule, instructions=changed)
        rest = (*instructions[:index], *instructions[index + 1 :])
        yield f"instruction {index} left out", _with(schedule, instructions=rest)


def _wrong(one: Instruction, line: int) -> Iterator[tuple[str, Instruction]]:
    """Offsets that are off by a byte or a line."""
    for shift in (-line, 1):
        yield f"writes {shift} bytes off", replace(one, target=one.target + shift)
        for place, offset in enumerate(one.sources):
            sources = (*one.sources[:place], offset + shift, *one.sources[place + 1 :])
            yield f"reads {shift} bytes off", replace(one, sources=sources)
    yield "writes a byte less", replace(one, bytes=one.bytes - 1)


@pytest.mark.parametrize("make", [_chain, _branches])
def test_what_is_wrong_is_found(make: _Make) -> None:
    """The interpreter of these tests finds every single fault."""
    graph = _graph(make)
    striper = Striper(graph, _CORE)
    longest = max(striper.spans([1]), key=lambda span: span.stop - span.start)
    schedule = striper.with_cascades([longest])
    arena = plan_arena(schedule, 4)
    execute(graph, schedule, arena, [longest])
    assert any(one.step is None for one in schedule.cascades[0].instructions)
    found = {what: not _is_executed(graph, wrong, arena, [longest]) for what, wrong in _faults(schedule)}
    assert len(found) > 100
    assert [what for what, is_found in found.items() if not is_found] == []


@pytest.mark.parametrize("make", _NETWORKS)
def test_rolling_buffers_are_smaller_than_feature_maps(make: _Make) -> None:
    graph = _graph(make)
    striper = Striper(graph, _CORE)
    for span in striper.spans([1]):
        (cascade,) = striper.with_cascades([span]).cascades
        assert all(size <= striper.plain.buffers[buffer].size for buffer, size in cascade.sizes.items())


def test_what_is_read_later_stays_whole() -> None:
    """The stem of `_branches` is read by its last layer."""
    graph = _graph(_branches)
    striper = Striper(graph, _CORE)
    steps = striper.plain.steps
    stem = steps[0].output
    count = len(steps)
    (whole,) = striper.with_cascades([Span(0, count, 1)]).cascades
    (part,) = striper.with_cascades([Span(0, count - 1, 1)]).cascades
    assert stem in whole.sizes and stem not in part.sizes
    assert steps[-1].output not in whole.sizes and steps[-2].output not in part.sizes


def test_nothing_is_computed_twice() -> None:
    graph = _graph(_branches)
    striper = Striper(graph, _CORE)
    for span in striper.spans(_ROWS):
        (cascade,) = striper.with_cascades([span]).cascades
        stripes = [(one.step, one.stripe) for one in cascade.instructions if one.step is not None]
        assert len(stripes) == len(set(stripes)) == sum(len(calls) for calls in cascade.calls.values())


def test_an_image_reshaped_on_the_way_is_no_cascade() -> None:
    """A line of the writer is not a line of the reader, though every byte is at its place."""
    builder = NetworkBuilder(np.random.default_rng(1), alphabet("midrise-2"), (3, 4, 4))
    image = builder.add(Reshape((8, 16, 1)), builder.conv("x", 8, 3))
    graph = builder.graph(builder.conv(builder.conv(image, 8, 3), 8, 3))
    striper = Striper(graph, _CORE)
    assert [step.node is not None for step in striper.plain.steps] == [True] * 3, "no transposition"
    assert list(striper.spans([1])) == [Span(1, 3, 1)]


def test_stripes_that_need_other_tables_are_no_cascade() -> None:
    """An average that leaves pads out divides by less at the edges."""
    builder = NetworkBuilder(np.random.default_rng(1), alphabet("midrise-2"), (3, 12, 4))
    first = builder.conv("x", 4, 3)
    pooled = builder.add(AveragePool2d(Window((3, 3), pads=(1, 1, 1, 1))), first)
    graph = builder.graph(builder.conv(builder.conv(pooled, 4, 3), 4, 1))
    assert list(Striper(graph, _CORE).spans([1])) == [Span(2, 4, 1)]


def test_calls_that_share_their_tables() -> None:
    call = KernelCall("a.c.j2", "a", parameters={"height": 3}, tables={"weights": np.arange(4)})
    assert has_equal_tables([call, replace(call, function="a_edge", parameters={"height": 2})])
    for other in (
        replace(call, template="b.c.j2"),
        replace(call, tables={"weights": np.arange(1, 5)}),
        replace(call, tables={"weights": np.arange(4), "bias": np.arange(4)}),
    ):
        assert not has_equal_tables([call, other])

"""The table in C says what the instructions of a cascade say: the repetition that is left out is lossless."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.arena import Arena, plan_arena
from deployq.codegen.cascade_search import Span
from deployq.codegen.emit_cascade import CascadeCase, CascadeText, Struct, cascade_text, stripe_structs
from deployq.codegen.kernels import Core
from deployq.codegen.schedule import SOURCE, Schedule
from tests.codegen.cascade_networks import DrawnNetwork, Striper
from tests.integer_networks import NetworkBuilder, residual_network

_CORE = Core(frozenset({"dsp"}))

#: An argument of a call: an address as (base, offset), a number of bytes, or a name.
_Argument = tuple[str, int] | int | str


@dataclass(frozen=True)
class _Rendered:
    """A cascade of a schedule as text, and what it was made of."""

    schedule: Schedule
    arena: Arena
    structs: Mapping[int, Sequence[Struct]]
    text: CascadeText

    def expected(self) -> Iterator[tuple[int | None, list[_Argument], int]]:
        """Layer, arguments of the call and bytes written, from the instructions."""
        (cascade,) = self.schedule.cascades
        for one in cascade.instructions:
            target = self._address(one.output, one.target)
            if one.step is None:
                yield None, [target, self._address(one.output, one.sources[0]), one.bytes], one.bytes
                continue
            if one.step == SOURCE:
                yield SOURCE, ["context", "row", target], one.bytes
                continue
            inputs = self.schedule.steps[one.step].inputs
            pairs = zip(inputs, one.sources, strict=True)
            arguments: list[_Argument] = [f"&{self.structs[one.step][one.stripe].symbol}"]
            arguments += [*(self._address(*pair) for pair in pairs), target]
            if _uses_scratch(one.step, cascade.calls[one.step][one.stripe].scratch_bytes):
                needed = cascade.calls[one.step][one.stripe].scratch_bytes
                scratch = self.arena.scratch[one.step]
                assert scratch is not None or not needed
                arguments.append(("memory", scratch) if needed and scratch is not None else "NULL")
            yield one.step, arguments, one.bytes

    def _address(self, buffer: int, offset: int) -> _Argument:
        place = self.arena.buffers[buffer]
        return (self.schedule.buffers[buffer].place if place is None else "memory"), (place or 0) + offset


def _uses_scratch(step: int, needed: int) -> bool:
    """Kernels that need none may have the argument all the same."""
    return needed > 0 or step % 2 == 0


def _rendered(schedule: Schedule, arena: Arena) -> _Rendered:
    (cascade,) = schedule.cascades
    structs = {
        index: stripe_structs(f"net_layer{index}", calls, {name: name for name in calls[0].tables})[1]
        for index, calls in cascade.calls.items()
    }
    uses_scratch = {
        index: _uses_scratch(index, max(call.scratch_bytes for call in calls))
        for index, calls in cascade.calls.items()
    }
    text = cascade_text(0, cascade, schedule, arena, structs, uses_scratch)
    return _Rendered(schedule, arena, structs, text)


def _played(text: CascadeText) -> Iterator[tuple[int | None, list[_Argument], int]]:
    """What the C function of a cascade does, as templates/parts.j2 writes it."""
    positions = dict(text.positions)
    turns, at = text.loop.turns, 0
    while at < len(text.rows):
        action, *offsets = text.rows[at]
        columns = dict(zip(text.columns, offsets, strict=True))
        case = text.cases[action]
        for name, column in case.advances:
            positions[name] += columns[column]
        yield case.layer, _arguments(case, columns | positions), case.bytes
        if text.loop.turns > 1 and at == text.loop.last:
            turns -= 1
            if turns > 0:
                at = text.loop.first - 1
        at += 1


def _arguments(case: CascadeCase, values: Mapping[str, int]) -> list[_Argument]:
    return [_argument(part, values) for part in case.arguments.split(", ")]


def _argument(part: str, values: Mapping[str, int]) -> _Argument:
    if found := re.fullmatch(r"(memory|input|output) \+ (\w+)", part):
        base, offset = found.groups()
        return base, int(offset) if offset.isdecimal() else values[offset]
    return int(part[:-1]) if re.fullmatch(r"\d+u", part) else part


def _check(rendered: _Rendered) -> None:
    text = rendered.text
    played = list(_played(text))
    assert played == list(rendered.expected())
    assert text.steps == len(played)
    assert all(len(row) == 1 + len(text.columns) for row in text.rows)
    assert min(map(min, text.rows)) >= 0
    largest = max(map(max, text.rows))
    assert text.type == ("uint16_t" if largest < 2**16 else "uint32_t")
    for case in text.cases:
        if case.layer not in (None, SOURCE):
            assert case.output == case.arguments.split(", ")[_outputs_place(rendered, case.layer)]
    bases = {one[0] for _, arguments, _ in played for one in arguments if isinstance(one, tuple)}
    assert ("input" in bases, "output" in bases) == (text.uses_input, text.uses_output)
    assert text.reads_rows == any(layer == SOURCE for layer, _, _ in played)


def _outputs_place(rendered: _Rendered, layer: int | None) -> int:
    """Which argument is the output: after the parameters and the inputs."""
    assert layer is not None
    return 1 + len(rendered.schedule.steps[layer].inputs)


@pytest.mark.parametrize("seed", range(6))
def test_tables_of_drawn_networks_are_lossless(seed: int) -> None:
    striper = Striper(DrawnNetwork(100 + seed).graph(), _CORE, ("nhwc", "nchw")[seed % 2])
    spans = list(striper.spans((1, 2, 3, 4)))
    assert spans
    spans += striper.source_spans((1, 3))
    for span in spans[:: 1 + len(spans) // 25]:
        schedule = striper.with_cascades([span])
        _check(_rendered(schedule, plan_arena(schedule, 4)))


def _tall() -> Striper:
    """A chain of convolutions and a pool on a tall image."""
    builder = NetworkBuilder(np.random.default_rng(1), alphabet("midrise-2"), (3, 64, 2))
    x = builder.conv("x", 4, 3, 2)
    for out, kernel, stride in ((4, 3, 1), (8, 3, 2), (4, 1, 1)):
        x = builder.conv(x, out, kernel, stride)
    return Striper(builder.graph(x), _CORE)


@pytest.mark.parametrize("rows", [1, 2])
def test_what_repeats_itself_is_stored_once(rows: int) -> None:
    schedule = _tall().with_cascades([Span(0, 4, rows)])
    rendered = _rendered(schedule, plan_arena(schedule, 4))
    _check(rendered)
    assert rendered.text.loop.turns > 2
    assert len(rendered.text.rows) < 0.6 * rendered.text.steps


def test_where_nothing_repeats_the_table_is_the_whole() -> None:
    schedule = _tall().with_cascades([Span(0, 4, 64)])
    rendered = _rendered(schedule, plan_arena(schedule, 4))
    _check(rendered)
    assert rendered.text.steps == len(rendered.text.rows) == 4
    assert rendered.text.loop.turns == 1


@pytest.mark.parametrize("distance", [0, 70_000])
def test_offsets_beyond_sixteen_bits(distance: int) -> None:
    graph = residual_network(np.random.default_rng(2), alphabet("midrise-2"))
    striper = Striper(graph, _CORE)
    schedule = striper.with_cascades([Span(0, 5, 1)])
    arena = plan_arena(schedule, 4)
    far = tuple(None if offset is None else offset + distance for offset in arena.buffers)
    rendered = _rendered(schedule, replace(arena, buffers=far, bytes=arena.bytes + distance))
    _check(rendered)
    assert rendered.text.type == ("uint32_t" if distance else "uint16_t")


def test_a_row_that_is_wrong_is_found() -> None:
    """The comparison of these tests can fail."""
    schedule = _tall().with_cascades([Span(0, 4, 1)])
    rendered = _rendered(schedule, plan_arena(schedule, 4))
    rows, loop = rendered.text.rows, rendered.text.loop
    changed = tuple((*row[:-1], row[-1] + (at == loop.last)) for at, row in enumerate(rows))
    for wrong in (
        replace(rendered.text, rows=changed),
        replace(rendered.text, loop=replace(loop, turns=loop.turns + 1)),
        replace(rendered.text, loop=replace(loop, first=loop.first + 1)),
    ):
        assert list(_played(wrong)) != list(rendered.expected())

"""What the templates see of a cascade: the table its C follows, and a case for every kernel call.

A stripe of a rolling buffer is told by its offset in the arena; in a whole feature map by how far it is from
the one before. So the table repeats itself, and the repetition is stored once.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployq.codegen.arena import Arena
from deployq.codegen.kernel_source import nested
from deployq.codegen.schedule import SOURCE, Cascade, Instruction, Schedule
from deployq.ops import KernelCall

_Row = tuple[int, ...]


@dataclass(frozen=True)
class Struct:
    """A constant parameter structure: C name and members."""

    symbol: str
    members: Mapping[str, Any]


@dataclass(frozen=True)
class CascadeCase:
    """A case of the C function of a cascade.

    Attributes:
        layer: index of the layer; None where lines are moved, SOURCE where the caller gives a row.
        function: C kernel.
        advances: positions in whole feature maps that move on first: C name of the position, and of the
            column of the table.
        arguments: C text.
        output: C expression of the address of the rows that are written.
        bytes: that are written.
    """

    layer: int | None
    function: str
    advances: tuple[tuple[str, str], ...]
    arguments: str
    output: str
    bytes: int


@dataclass(frozen=True)
class Loop:
    """Rows [first, last] of the table are executed `turns` times."""

    first: int
    last: int
    turns: int


@dataclass(frozen=True)
class CascadeText:
    """A cascade as the templates render it.

    Attributes:
        index: of the cascade.
        start: first layer.
        last: last layer.
        steps: that are executed, repetitions included.
        type: C type of the table's elements.
        columns: C names of the offsets.
        uses_input: whether the caller's input is read.
        uses_output: whether the caller's output is written.
        reads_rows: whether the caller gives the input row by row.
        positions: positions in whole feature maps, by C name, at the start.
        cases: numbered from 0.
        rows: of the table: case, then the offsets.
        loop: repeated rows.
    """

    index: int
    start: int
    last: int
    steps: int
    type: str
    columns: tuple[str, ...]
    uses_input: bool
    uses_output: bool
    reads_rows: bool
    positions: Mapping[str, int]
    cases: tuple[CascadeCase, ...]
    rows: tuple[_Row, ...]
    loop: Loop

    @property
    def lines(self) -> list[str]:
        """The table as lines of a C initialiser."""
        return textwrap.wrap(" ".join(f"{{{','.join(map(str, row))}}}," for row in self.rows), 100)


def stripe_structs(
    symbol: str, calls: Sequence[KernelCall], tables: Mapping[str, str]
) -> tuple[tuple[Struct, ...], tuple[Struct, ...]]:
    """The parameter structures of the stripes of a layer.

    Args:
        symbol: C name of the layer.
        calls: kernel of each stripe.
        tables: C name of each table by member.

    Returns:
        The different structures, and the structure of each stripe.
    """
    known: dict[tuple[Any, ...], Struct] = {}
    of_stripes = []
    for call in calls:
        key = (call.function, *sorted(call.parameters.items()))
        if key not in known:
            known[key] = Struct(f"{symbol}_stripe{len(known)}", nested({**tables, **call.parameters}))
        of_stripes.append(known[key])
    return tuple(known.values()), tuple(of_stripes)


def cascade_text(
    index: int,
    cascade: Cascade,
    schedule: Schedule,
    arena: Arena,
    structs: Mapping[int, Sequence[Struct]],
    uses_scratch: Mapping[int, bool],
) -> CascadeText:
    """The table and the cases of a cascade.

    Args:
        index: of the cascade.
        cascade: to render.
        schedule: it belongs to.
        arena: plan of the schedule.
        structs: structure of each stripe, by index of the step.
        uses_scratch: whether the kernel takes scratch memory, by index of the step.
    """
    writer = _Writer(cascade, schedule, arena, structs, uses_scratch)
    for instruction in cascade.instructions:
        writer.add(instruction)
    rows, loop = _rolled_up(writer.rows)
    steps = schedule.steps[cascade.start : cascade.stop]
    places = {schedule.buffers[buffer].place for step in steps for buffer in (*step.inputs, step.output)}
    return CascadeText(
        index=index,
        start=cascade.start,
        last=cascade.stop - 1,
        steps=len(cascade.instructions),
        type="uint16_t" if max(map(max, rows)) < 2**16 else "uint32_t",
        columns=writer.columns,
        uses_input="input" in places,
        uses_output="output" in places,
        reads_rows=cascade.source is not None,
        positions=writer.starts,
        cases=tuple(writer.cases),
        rows=rows,
        loop=loop,
    )


@dataclass
class _Writer:
    """Turns instructions into cases and rows of the table."""

    cascade: Cascade
    schedule: Schedule
    arena: Arena
    structs: Mapping[int, Sequence[Struct]]
    uses_scratch: Mapping[int, bool]
    cases: dict[CascadeCase, int] = field(default_factory=dict)
    rows: list[_Row] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the offsets; a second input where some layer has one."""
        two = any(len(self.schedule.steps[step].inputs) == 2 for step in self.cascade.calls)
        return ("from", "second", "to") if two else ("from", "to")

    def add(self, instruction: Instruction) -> None:
        """Append the row of an instruction."""
        if instruction.step is None:
            case, offsets = self._move(instruction)
        elif instruction.step == SOURCE:
            case, offsets = self._row(instruction)
        else:
            case, offsets = self._stripe(instruction, instruction.step)
        number = self.cases.setdefault(case, len(self.cases))
        self.rows.append((number, *(offsets.get(column, 0) for column in self.columns)))

    def _move(self, instruction: Instruction) -> tuple[CascadeCase, dict[str, int]]:
        """Lines that are still needed, to the start of their rolling buffer."""
        base = self.arena.buffers[instruction.output] or 0
        size = instruction.bytes
        case = CascadeCase(None, "memmove", (), f"memory + to, memory + from, {size}u", "", size)
        return case, {"from": base + instruction.sources[0], "to": base + instruction.target}

    def _row(self, instruction: Instruction) -> tuple[CascadeCase, dict[str, int]]:
        """The next row of the input."""
        case = CascadeCase(SOURCE, "read", (), "context, row, memory + to", "", instruction.bytes)
        return case, {"to": (self.arena.buffers[instruction.output] or 0) + instruction.target}

    def _stripe(self, instruction: Instruction, index: int) -> tuple[CascadeCase, dict[str, int]]:
        """A stripe of a layer."""
        step, call = self.schedule.steps[index], self.cascade.calls[index][instruction.stripe]
        pointers, advances = [f"&{self.structs[index][instruction.stripe].symbol}"], []
        offsets: dict[str, int] = {}
        reads = zip(("from", "second"), step.inputs, instruction.sources, strict=False)
        for column, buffer, offset in (*reads, ("to", step.output, instruction.target)):
            base, name, offsets[column] = self._pointer(index, column, buffer, offset)
            pointers.append(f"{base} + {name}")
            if name != column:
                advances.append((name, column))
        output = pointers[-1]
        if self.uses_scratch[index]:
            scratch = self.arena.scratch[index] if call.scratch_bytes else None
            pointers.append("NULL" if scratch is None else f"memory + {scratch}")
        case = CascadeCase(
            index, call.function, tuple(advances), ", ".join(pointers), output, instruction.bytes
        )
        return case, offsets

    def _pointer(self, index: int, column: str, buffer: int, offset: int) -> tuple[str, str, int]:
        """Base and offset of an address, C names both, and the offset's value in the table."""
        place = self.arena.buffers[buffer]
        base = self.schedule.buffers[buffer].place if place is None else "memory"
        if buffer in self.cascade.sizes:
            return base, column, offset + (place or 0)
        name = f"{column}{index}"
        self.starts.setdefault(name, place or 0)
        before = self.positions.get(name, 0)
        self.positions[name] = offset
        return base, name, offset - before


def _rolled_up(rows: Sequence[_Row]) -> tuple[tuple[_Row, ...], Loop]:
    """The rows with the repetition left out that saves most."""
    best, count = Loop(0, len(rows) - 1, 1), len(rows)
    saved = 0
    for period in range(1, count // 2 + 1):
        run = 0
        for at in range(count - period):
            run = run + 1 if rows[at] == rows[at + period] else 0
            if run // period * period > saved:
                turns = run // period + 1
                saved = (turns - 1) * period
                first = at + period + 1 - turns * period
                best = Loop(first, first + period - 1, turns)
    left_out = range(best.last + 1, best.last + 1 + saved)
    return tuple(row for at, row in enumerate(rows) if at not in left_out), best

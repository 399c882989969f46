"""Where each buffer of a schedule lies in the arena, scratch memory included."""

from __future__ import annotations

from dataclasses import dataclass

from deployq.codegen.memory import Block, Lead, plan
from deployq.codegen.schedule import Schedule

#: Kernels keep 32-bit words in their scratch memory.
_SMALLEST_ALIGNMENT = 4


@dataclass(frozen=True)
class Arena:
    """Offsets in bytes.

    Attributes:
        buffers: offset of each buffer of the schedule; None for those of the caller.
        scratch: offset of the scratch memory of each step; None where it needs none.
        bytes: size of the arena, at least one unit of alignment so that it can be declared.
        alignment: of the arena's start.
    """

    buffers: tuple[int | None, ...]
    scratch: tuple[int | None, ...]
    bytes: int
    alignment: int


def plan_arena(schedule: Schedule, alignment: int) -> Arena:
    """Plan the arena of a schedule.

    Args:
        schedule: steps and buffers.
        alignment: of the arena's start, a power of two; offsets are multiples of 4 at least.
    """
    alignment = max(alignment, _SMALLEST_ALIGNMENT)
    lives = _lifetimes(schedule)
    buffers = list(lives)
    position = {buffer: index for index, buffer in enumerate(buffers)}
    blocks = [Block(schedule.buffers[buffer].size, *lives[buffer]) for buffer in buffers]
    scratch_steps = [index for index, step in enumerate(schedule.steps) if step.call.scratch_bytes]
    scratch = [Block(schedule.steps[index].call.scratch_bytes, index, index) for index in scratch_steps]
    leads = {
        (position[source], position[result]): lead
        for (source, result), lead in _leads(schedule, lives).items()
    }
    planned = plan([*blocks, *scratch], alignment, leads)
    offsets = dict(zip(buffers, planned.offsets, strict=False))
    scratch_offsets = dict(zip(scratch_steps, planned.offsets[len(buffers) :], strict=True))
    return Arena(
        buffers=tuple(offsets.get(i) for i in range(len(schedule.buffers))),
        scratch=tuple(scratch_offsets.get(i) for i in range(len(schedule.steps))),
        bytes=max(planned.bytes, alignment),
        alignment=alignment,
    )


def _lifetimes(schedule: Schedule) -> dict[int, tuple[int, int]]:
    """First and last step of each buffer in the arena."""
    lives: dict[int, tuple[int, int]] = {}
    for index, step in enumerate(schedule.steps):
        for buffer in (*step.inputs, step.output):
            if schedule.buffers[buffer].place == "arena":
                lives[buffer] = (lives.get(buffer, (index, index))[0], index)
    return lives


def _leads(schedule: Schedule, lives: dict[int, tuple[int, int]]) -> dict[tuple[int, int], Lead]:
    """(input, output) buffers that may overlap: the kernel allows it and nobody reads the input later."""
    leads: dict[tuple[int, int], Lead] = {}
    for index, step in enumerate(schedule.steps):
        lead: Lead | None = 0 if step.call.in_place else step.call.lead
        if lead is None or step.output not in lives:
            continue
        for buffer in step.inputs if step.call.in_place else step.inputs[:1]:
            if buffer in lives and lives[buffer][1] == index:
                leads[buffer, step.output] = lead
    return leads

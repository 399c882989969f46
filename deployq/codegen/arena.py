"""Where each buffer of a schedule lies in the arena, scratch memory included."""

from __future__ import annotations

from dataclasses import dataclass

from deployq.codegen.memory import Block, plan
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
    roots = _share_in_place(schedule, lives)
    blocks: dict[int, Block] = {}
    for index, life in lives.items():
        root = roots[index]
        first, last = blocks[root].first if root in blocks else life[0], life[1]
        size = schedule.buffers[index].size
        blocks[root] = Block(
            size, min(first, life[0]), max(last, blocks[root].last if root in blocks else last)
        )
    scratch_steps = [index for index, step in enumerate(schedule.steps) if step.call.scratch_bytes]
    scratch = [Block(schedule.steps[index].call.scratch_bytes, index, index) for index in scratch_steps]
    order = list(blocks)
    planned = plan([*blocks.values(), *scratch], alignment)
    offsets = dict(zip(order, planned.offsets, strict=False))
    scratch_offsets = dict(zip(scratch_steps, planned.offsets[len(order) :], strict=True))
    return Arena(
        buffers=tuple(offsets[roots[i]] if i in roots else None for i in range(len(schedule.buffers))),
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


def _share_in_place(schedule: Schedule, lives: dict[int, tuple[int, int]]) -> dict[int, int]:
    """The buffer whose memory each buffer uses: its own, or that of an input it overwrites."""
    roots = {buffer: buffer for buffer in lives}
    for index, step in enumerate(schedule.steps):
        if not step.call.in_place or step.output not in lives:
            continue
        for buffer in step.inputs:
            dies_here = buffer in lives and lives[buffer][1] == index
            if dies_here and schedule.buffers[buffer].size == schedule.buffers[step.output].size:
                roots[step.output] = roots[buffer]
                break
    return roots

"""Where each buffer of a schedule lies in the arena, scratch memory included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deployq.codegen.memory import Block, Lead, Leads, lower_bound, plan
from deployq.codegen.schedule import Schedule, Step

#: Kernels keep 32-bit words in their scratch memory.
_SMALLEST_ALIGNMENT = 4


@dataclass(frozen=True)
class Arena:
    """Offsets in bytes.

    Attributes:
        buffers: offset of each buffer of the schedule; None for those of the caller.
        scratch: offset of the scratch memory of each step, the same for all of a cascade; None where it
            needs none.
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
    demand = _demand(schedule)
    tasks, buffers = demand.tasks, demand.buffers
    planned = plan(demand.blocks, alignment, demand.leads)
    offsets = dict(zip(buffers, planned.offsets, strict=False))
    of_tasks = dict(zip(demand.scratch_tasks, planned.offsets[len(buffers) :], strict=True))
    scratch_offsets = {step: of_tasks.get(index) for index, task in enumerate(tasks) for step in task.steps}
    return Arena(
        buffers=tuple(offsets.get(i) for i in range(len(schedule.buffers))),
        scratch=tuple(scratch_offsets[i] for i in range(len(schedule.steps))),
        bytes=max(planned.bytes, alignment),
        alignment=alignment,
    )


def smallest_arena(schedule: Schedule, alignment: int) -> int:
    """Bytes that no plan of a schedule can do without; much quicker than a plan."""
    demand = _demand(schedule)
    return lower_bound(demand.blocks, alignment, demand.leads)


@dataclass(frozen=True)
class _Demand:
    """What has to be placed: a block per buffer in the arena, then one per task with scratch memory."""

    tasks: list[_Task]
    buffers: list[int]
    scratch_tasks: list[int]
    blocks: list[Block]
    leads: Leads


def _demand(schedule: Schedule) -> _Demand:
    tasks = _tasks(schedule)
    lives, sizes = _lifetimes(schedule, tasks), _sizes(schedule)
    buffers = list(lives)
    position = {buffer: index for index, buffer in enumerate(buffers)}
    scratch_tasks = [index for index, task in enumerate(tasks) if task.scratch_bytes]
    blocks = [Block(sizes[buffer], *lives[buffer]) for buffer in buffers]
    blocks += [Block(tasks[index].scratch_bytes, index, index) for index in scratch_tasks]
    leads = {
        (position[source], position[result]): lead for (source, result), lead in _leads(tasks, lives).items()
    }
    return _Demand(tasks, buffers, scratch_tasks, blocks, leads)


@dataclass(frozen=True)
class _Task:
    """Steps that share a moment of the plan: one, or those of a cascade."""

    steps: range
    scratch_bytes: int
    leads: Mapping[tuple[int, int], Lead]


def _tasks(schedule: Schedule) -> list[_Task]:
    """The steps in execution order, those of a cascade as one."""
    tasks = []
    cascades = {cascade.start: cascade for cascade in schedule.cascades}
    index = 0
    while index < len(schedule.steps):
        step, cascade = schedule.steps[index], cascades.get(index)
        if cascade is not None:
            tasks.append(_Task(range(index, cascade.stop), cascade.scratch_bytes, cascade.leads))
        else:
            tasks.append(_Task(range(index, index + 1), step.call.scratch_bytes, _step_leads(step)))
        index = tasks[-1].steps.stop
    return tasks


def _sizes(schedule: Schedule) -> list[int]:
    """Bytes of each buffer, rolling ones as they roll."""
    rolling = {buffer: size for cascade in schedule.cascades for buffer, size in cascade.sizes.items()}
    return [rolling.get(index, buffer.size) for index, buffer in enumerate(schedule.buffers)]


def _lifetimes(schedule: Schedule, tasks: Sequence[_Task]) -> dict[int, tuple[int, int]]:
    """First and last task of each buffer in the arena."""
    lives: dict[int, tuple[int, int]] = {}
    for index, task in enumerate(tasks):
        for step in schedule.steps[task.steps.start : task.steps.stop]:
            for buffer in (*step.inputs, step.output):
                if schedule.buffers[buffer].place == "arena":
                    lives[buffer] = (lives.get(buffer, (index, index))[0], index)
    return lives


def _step_leads(step: Step) -> dict[tuple[int, int], Lead]:
    """(input, output) of a step that may overlap where nobody reads the input later."""
    lead: Lead | None = 0 if step.call.in_place else step.call.lead
    if lead is None:
        return {}
    sources = step.inputs if step.call.in_place else step.inputs[:1]
    return {(source, step.output): lead for source in sources}


def _leads(tasks: Sequence[_Task], lives: Mapping[int, tuple[int, int]]) -> dict[tuple[int, int], Lead]:
    """The pairs of buffers that may overlap: both in the arena, and nobody reads the input later."""
    return {
        (source, result): lead
        for index, task in enumerate(tasks)
        for (source, result), lead in task.leads.items()
        if result in lives and source in lives and lives[source][1] == index
    }

"""Executes a schedule on memory that holds names of values instead of values.

Every byte of memory says which byte of which feature map it holds, or that it holds nothing. What a layer
reads is told by the geometry of its operator alone, so that a cascade which overwrites a line too early,
moves it to the wrong place or reads one that is not there yet is found out. Nothing of
`deployq.codegen.cascade` is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deployq.codegen.arena import Arena
from deployq.codegen.cascade_search import Span
from deployq.codegen.schedule import SOURCE, Cascade, Instruction, Schedule, Step
from deployq.graph import Graph, Shape
from deployq.ops.window import Window

_Names = npt.NDArray[np.int64]

_NOTHING = -1


class LostLineError(AssertionError):
    """Something reads or writes what it should not."""


def execute(graph: Graph, schedule: Schedule, arena: Arena, spans: Sequence[Span]) -> None:
    """Execute a schedule, layers and cascades.

    Args:
        graph: integer graph.
        schedule: to execute.
        arena: its plan.
        spans: those its cascades were made of; they say how many rows a stripe has.

    Raises:
        LostLineError: a layer does not find what it reads, something writes where it must not, or a feature
            map is not complete when it should be.
    """
    _Execution(graph, schedule, arena, spans).run()


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise LostLineError(problem)


class _Execution:
    def __init__(self, graph: Graph, schedule: Schedule, arena: Arena, spans: Sequence[Span]) -> None:
        self.graph, self.schedule, self.arena = graph, schedule, arena
        self.rows = {span.start: span.rows for span in spans}
        sizes = {"arena": arena.bytes}
        sizes |= {buffer.place: buffer.size for buffer in schedule.buffers if buffer.place != "arena"}
        self.memory = {place: np.full(size, _NOTHING, np.int64) for place, size in sizes.items()}
        for index, buffer in enumerate(schedule.buffers):
            if buffer.place == "input":
                self.memory["input"][:] = self.names(index, 0, buffer.size)

    def run(self) -> None:
        """Every step, in order."""
        cascades = {cascade.start: cascade for cascade in self.schedule.cascades}
        index = 0
        while index < len(self.schedule.steps):
            if index in cascades:
                self.cascade(cascades[index])
                index = cascades[index].stop
            else:
                self.step(index)
                index += 1

    @staticmethod
    def names(buffer: int, first: int, end: int) -> _Names:
        """The names of bytes [first, end) of a feature map."""
        return (buffer << 32) + np.arange(first, end, dtype=np.int64)

    def region(self, buffer: int, offset: int, size: int, limit: int) -> tuple[str, int, _Names]:
        """Some bytes of a buffer: memory, address, and names that are there."""
        _require(offset >= 0 and offset + size <= limit, f"outside of buffer {buffer}")
        start = (self.arena.buffers[buffer] or 0) + offset
        place = self.schedule.buffers[buffer].place
        memory = self.memory[place]
        _require(start + size <= len(memory), f"outside of the {place}")
        return place, start, memory[start : start + size]

    def step(self, index: int) -> None:
        """A layer in one go; whether it may overwrite its own input is not asked here."""
        step = self.schedule.steps[index]
        self.clobber(index, step.call.scratch_bytes)
        for buffer in step.inputs:
            self.require_whole(buffer)
        size = self.schedule.buffers[step.output].size
        self.region(step.output, 0, size, size)[2][:] = self.names(step.output, 0, size)

    def require_whole(self, buffer: int) -> None:
        """A feature map must lie in memory from its first to its last byte."""
        size = self.schedule.buffers[buffer].size
        found = self.region(buffer, 0, size, size)[2]
        _require(np.array_equal(found, self.names(buffer, 0, size)), f"buffer {buffer} is not complete")

    def clobber(self, index: int, size: int) -> None:
        """Fill the scratch memory of a kernel with nothing."""
        start = self.arena.scratch[index]
        if size:
            assert start is not None
            _require(start + size <= self.arena.bytes, "scratch memory outside of the arena")
            self.memory["arena"][start : start + size] = _NOTHING

    def cascade(self, cascade: Cascade) -> None:
        """The instructions of a cascade."""
        self.done = dict.fromkeys(range(cascade.start, cascade.stop), 0)
        self.given = 0
        for instruction in cascade.instructions:
            if instruction.step is None:
                self.move(cascade, instruction)
            elif instruction.step == SOURCE:
                self.give(cascade, instruction)
            else:
                self.stripe(cascade, instruction, instruction.step)
        for index, count in self.done.items():
            _, height, _ = self.shape(self.schedule.steps[index])
            _require(count * self.rows[cascade.start] >= height, f"step {index} is not complete")
            output = self.schedule.steps[index].output
            if output not in cascade.sizes:
                self.require_whole(output)
        if cascade.source is not None:
            _require(self.given == self.graph.tensors[self.graph.input].shape[1], "the input is not complete")
        # What rolled is gone.
        for buffer, size in cascade.sizes.items():
            self.region(buffer, 0, size, size)[2][:] = _NOTHING

    def move(self, cascade: Cascade, instruction: Instruction) -> None:
        """Lines within a rolling buffer, as memmove does it."""
        _require(instruction.output in cascade.sizes, "only rolling buffers are moved")
        limit = cascade.sizes[instruction.output]
        source = self.region(instruction.output, instruction.sources[0], instruction.bytes, limit)[2].copy()
        self.region(instruction.output, instruction.target, instruction.bytes, limit)[2][:] = source

    def give(self, cascade: Cascade, instruction: Instruction) -> None:
        """The next row of the network's input, from the caller."""
        channels, _, width = self.graph.tensors[self.graph.input].shape
        line = channels * width
        _require(cascade.source == instruction.output, "another buffer than that of the input")
        _require((instruction.stripe, instruction.bytes) == (self.given, line), "another row than the next")
        row = self.region(instruction.output, instruction.target, line, cascade.sizes[instruction.output])[2]
        row[:] = self.names(instruction.output, self.given * line, (self.given + 1) * line)
        self.given += 1

    def shape(self, step: Step) -> Shape:
        """(C, H, W) of the output of a step."""
        assert step.node is not None
        return self.graph.tensors[step.node.output].shape

    def stripe(self, cascade: Cascade, instruction: Instruction, index: int) -> None:
        """A stripe of a layer: the next one, once, from the lines it reads."""
        step = self.schedule.steps[index]
        assert step.node is not None
        _require(instruction.stripe == self.done[index], f"step {index} is out of order")
        self.done[index] += 1
        channels, height, width = self.shape(step)
        rows = self.rows[cascade.start]
        first = instruction.stripe * rows
        last = min(first + rows, height)
        self.clobber(index, cascade.calls[index][instruction.stripe].scratch_bytes)
        size = (last - first) * channels * width
        _require(instruction.bytes == size, f"step {index} writes another number of bytes")
        target = self.region(step.output, instruction.target, size, self.limit(cascade, step.output))
        shapes = self.graph.input_shapes(step.node)
        for buffer, offset, shape in zip(step.inputs, instruction.sources, shapes, strict=True):
            low, high = _lines(getattr(step.node.op, "window", None), shape[1], first, last)
            line = shape[0] * shape[2]
            place, start, found = self.region(
                buffer, offset, (high - low) * line, self.limit(cascade, buffer)
            )
            wanted = self.names(buffer, low * line, high * line)
            _require(np.array_equal(found, wanted), f"step {index} reads other lines than {low} to {high}")
            apart = place != target[0] or start + len(found) <= target[1] or target[1] + size <= start
            _require(apart, f"step {index} writes on what it reads")
        begin = first * channels * width
        target[2][:] = self.names(step.output, begin, begin + size)
        # The kernel may use its scratch memory to the end.
        self.clobber(index, cascade.calls[index][instruction.stripe].scratch_bytes)

    def limit(self, cascade: Cascade, buffer: int) -> int:
        """Bytes of a buffer, as it rolls or whole."""
        return cascade.sizes.get(buffer, self.schedule.buffers[buffer].size)


def _lines(window: Window | None, height: int, first: int, last: int) -> tuple[int, int]:
    """Input lines [low, high) between the first and last tap of output rows [first, last)."""
    if window is None:
        return first, last
    taps = [
        row * window.strides[0] - window.pads[0] + tap
        for row in range(first, last)
        for tap in range(window.extent[0])
    ]
    return max(min(taps), 0), min(max(taps) + 1, height)

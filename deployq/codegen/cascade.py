"""Several layers executed depth first, a stripe of rows at a time (a cascade, as Arm's Vela calls it).

Between layer-by-layer steps lie whole feature maps. In a cascade the last layer asks for the lines its next
stripe reads, the layer before computes them, and so on up: what lies between are rolling buffers of the few
lines that somebody still reads. Nothing is computed twice. The order, and where in a buffer each stripe
reads and writes, is decided here; the generated C follows a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deployq.codegen.schedule import SOURCE, Cascade, Instruction, Schedule, Step
from deployq.codegen.stripes import Stripe
from deployq.ops import KernelCall


@dataclass(frozen=True)
class StripedLayer:
    """A step cut into stripes.

    Attributes:
        stripes: from top to bottom.
        calls: kernel of each stripe; all have the same tables.
    """

    stripes: tuple[Stripe, ...]
    calls: tuple[KernelCall, ...]

    @property
    def line_bytes(self) -> int:
        """Bytes of a row of the output."""
        channels, _, width = self.stripes[0].op.output_shape(self.stripes[0].shapes)
        return channels * width

    def input_line_bytes(self, index: int) -> int:
        """Bytes of a line of input `index`."""
        channels, _, width = self.stripes[0].shapes[index]
        return channels * width

    @property
    def typical(self) -> KernelCall:
        """The call of a stripe away from the edges, where there is one."""
        return self.calls[len(self.calls) // 2]


@dataclass(frozen=True)
class InputRow:
    """A row of the network's input, in the place of a stripe: it reads nothing."""

    first: int
    low: int = 0
    high: int = 0

    @property
    def last(self) -> int:
        """End of the rows, exclusive."""
        return self.first + 1

    @property
    def rows(self) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class InputRows:
    """The network's input, in the place of a layer.

    Attributes:
        stripes: its rows.
        line_bytes: bytes of a row.
    """

    stripes: tuple[InputRow, ...]
    line_bytes: int


#: How a step is cut; None where it cannot be.
Cutter = Callable[[Step], StripedLayer | None]


def has_equal_tables(calls: Sequence[KernelCall]) -> bool:
    """Whether the calls can share their tables in flash, and have parameters of the same type."""
    first = calls[0].tables
    return all(
        call.template == calls[0].template
        and call.tables.keys() == first.keys()
        and all(np.array_equal(call.tables[name], first[name]) for name in first)
        for call in calls[1:]
    )


def cascade(
    schedule: Schedule, start: int, stop: int, cut: Cutter, source: InputRows | None = None
) -> Cascade | None:
    """Execute steps [start, stop) depth first.

    Args:
        schedule: layer by layer.
        start: index of the first step.
        stop: end of the steps, exclusive; the last one writes a whole feature map.
        cut: how each step is cut.
        source: the network's input, if the caller gives it row by row: its buffer is rolled as well.

    Returns:
        The cascade; None where a step cannot be cut, a buffer is reshaped on the way, nothing would be
        rolled, or somebody reads a `source` later.
    """
    layers: dict[int, StripedLayer] = {}
    for index in range(start, stop):
        layer = cut(schedule.steps[index])
        if layer is None:
            return None
        layers[index] = layer
    makers = {schedule.steps[index].output: index for index in layers}
    every: dict[int, StripedLayer | InputRows] = dict(layers)
    if source is not None:
        every[SOURCE] = source
        makers[schedule.input] = SOURCE
    if not _see_the_same_lines(schedule, layers, source):
        return None
    read_later = {
        buffer for index, step in enumerate(schedule.steps) if index not in layers for buffer in step.inputs
    }
    outside = {buffer for buffer, place in enumerate(schedule.buffers) if place.place == "output"}
    rolled = makers.keys() - read_later - outside - {schedule.steps[stop - 1].output}
    if not rolled or (source is not None and schedule.input not in rolled):
        return None
    order = _order(schedule, every, makers)
    return _Roller(schedule, every, makers, frozenset(rolled)).run(order, start, stop)


def _see_the_same_lines(
    schedule: Schedule, layers: Mapping[int, StripedLayer], source: InputRows | None
) -> bool:
    """Whether all who use a buffer divide it into the same lines; a reshape between them may change that."""
    lines: dict[int, set[int]] = {}
    if source is not None:
        lines[schedule.input] = {source.line_bytes}
    for index, layer in layers.items():
        step = schedule.steps[index]
        lines.setdefault(step.output, set()).add(layer.line_bytes)
        for place, buffer in enumerate(step.inputs):
            lines.setdefault(buffer, set()).add(layer.input_line_bytes(place))
    return all(len(sizes) == 1 for sizes in lines.values())


_Layers = Mapping[int, StripedLayer | InputRows]


def _inputs(schedule: Schedule, index: int) -> tuple[int, ...]:
    """The buffers that a step reads."""
    return () if index == SOURCE else schedule.steps[index].inputs


def _order(schedule: Schedule, layers: _Layers, makers: Mapping[int, int]) -> list[int]:
    """The steps in the order in which their stripes are computed: each just before it is needed."""
    done = dict.fromkeys(layers, 0)
    order: list[int] = []

    def rows(index: int) -> int:
        return layers[index].stripes[done[index] - 1].last if done[index] else 0

    def advance(index: int) -> None:
        stripe = layers[index].stripes[done[index]]
        for buffer in _inputs(schedule, index):
            while buffer in makers and rows(makers[buffer]) < stripe.high:
                advance(makers[buffer])
        order.append(index)
        done[index] += 1

    # The last layer pulls what it reads; rows that nobody reads come at the end.
    for index in sorted(layers, reverse=True):
        while done[index] < len(layers[index].stripes):
            advance(index)
    return order


class _Roller:
    """Places the lines of every stripe while the order is followed.

    Args:
        schedule: layer by layer.
        layers: by index of the step.
        makers: step that writes each buffer of the cascade.
        rolled: buffers of which only the lines still needed are kept.
    """

    def __init__(
        self,
        schedule: Schedule,
        layers: _Layers,
        makers: Mapping[int, int],
        rolled: frozenset[int],
    ) -> None:
        self.schedule, self.layers, self.makers, self.rolled = schedule, layers, makers, rolled
        self.outputs = {index: buffer for buffer, index in makers.items()}
        self.readers: dict[int, list[int]] = {}
        for index in layers:
            for buffer in _inputs(schedule, index):
                self.readers.setdefault(buffer, []).append(index)

    def run(self, order: Sequence[int], start: int, stop: int) -> Cascade:
        """The cascade of an order."""
        capacity = self._capacities(order)
        instructions: list[Instruction] = []
        done = dict.fromkeys(self.layers, 0)
        origin = dict.fromkeys(self.makers, 0)
        for index in order:
            output, layer = self.outputs[index], self.layers[index]
            stripe = layer.stripes[done[index]]
            line = layer.line_bytes
            if output in self.rolled:
                base = origin[output]
                if stripe.last - base > capacity[output]:
                    kept = min(self._needed_from(output, done), stripe.first)
                    if kept < stripe.first:
                        moved = (stripe.first - kept) * line
                        instructions.append(Instruction(None, 0, ((kept - base) * line,), 0, output, moved))
                    origin[output] = kept
            sources = tuple(
                (stripe.low - origin.get(buffer, 0)) * self._line_bytes(index, place)
                for place, buffer in enumerate(_inputs(self.schedule, index))
            )
            target = (stripe.first - origin[output]) * line
            instructions.append(Instruction(index, done[index], sources, target, output, stripe.rows * line))
            done[index] += 1
        sizes = {
            buffer: capacity[buffer] * self.layers[self.makers[buffer]].line_bytes for buffer in self.rolled
        }
        return Cascade(
            start=start,
            stop=stop,
            calls={
                index: layer.calls for index, layer in self.layers.items() if isinstance(layer, StripedLayer)
            },
            sizes=sizes,
            instructions=tuple(instructions),
            leads=self._leads(order, stop - 1),
            source=self.outputs.get(SOURCE),
        )

    def _line_bytes(self, index: int, place: int) -> int:
        """Bytes of a line of an input of a step."""
        layer = self.layers[index]
        assert isinstance(layer, StripedLayer)
        return layer.input_line_bytes(place)

    def _capacities(self, order: Sequence[int]) -> dict[int, int]:
        """Lines of each rolled buffer: the most that are there at the same time."""
        done = dict.fromkeys(self.layers, 0)
        capacity = dict.fromkeys(self.rolled, 0)
        for index in order:
            output = self.outputs[index]
            if output in self.rolled:
                stripe = self.layers[index].stripes[done[index]]
                lines = stripe.last - min(self._needed_from(output, done), stripe.first)
                capacity[output] = max(capacity[output], lines)
            done[index] += 1
        return capacity

    def _needed_from(self, buffer: int, done: Mapping[int, int]) -> int:
        """First line of a buffer that some stripe to come reads; those before may be overwritten."""
        stripes = [
            self.layers[index].stripes[done[index]].low
            for index in self.readers.get(buffer, ())
            if done[index] < len(self.layers[index].stripes)
        ]
        return min(stripes, default=2**31)

    def _leads(self, order: Sequence[int], last: int) -> dict[tuple[int, int], int]:
        """How far the output of the cascade may overwrite each input that nobody reads afterwards."""
        output = self.schedule.steps[last].output
        steps = self.schedule.steps
        leads: dict[tuple[int, int], int] = {}
        for buffer, readers in self.readers.items():
            if buffer in self.makers or any(buffer in step.inputs for step in steps[last + 1 :]):
                continue
            line = self._line_bytes(readers[0], steps[readers[0]].inputs.index(buffer))
            done = dict.fromkeys(self.layers, 0)
            lead = -(2**31)
            for index in order:
                # While the stripe is written its own input lines are still read.
                needed = self._needed_from(buffer, done)
                if index == last and needed < 2**31:
                    end = self.layers[last].stripes[done[last]].last * self.layers[last].line_bytes
                    lead = max(lead, end - needed * line)
                done[index] += 1
            leads[buffer, output] = lead
        return leads

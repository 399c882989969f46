"""Which layers are executed depth first where RAM counts most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from deployq.codegen.arena import plan_arena, smallest_arena
from deployq.codegen.cascade import InputRow, InputRows, StripedLayer, cascade, has_equal_tables
from deployq.codegen.kernels import Core, choose_kernel
from deployq.codegen.schedule import Cascade, Schedule, Step
from deployq.codegen.stripes import stripes_of
from deployq.errors import ModelError
from deployq.graph import Graph
from deployq.ops import IntegerOperator, KernelCall

#: Rows of a stripe, the fastest first.
STRIPE_ROWS = (4, 2, 1)

#: Plans of arenas that are made to find a cascade.
_PLANS = 20

#: Of the arenas that are compared.
SEARCH_ALIGNMENT = 4


@dataclass(frozen=True)
class Span:
    """Steps [start, stop) of a schedule, to be executed depth first in stripes of some rows.

    With `source` the caller gives the network's input row by row.
    """

    start: int
    stop: int
    rows: int
    source: bool = False


class Cutter:
    """Cuts steps into stripes and remembers the kernels it chose.

    Args:
        graph: integer graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[tuple[str, Core, bool, int], StripedLayer | None] = {}
        self._cascades: dict[tuple[Span, tuple[tuple[Core | None, bool], ...]], Cascade | None] = {}

    def source(self) -> InputRows:
        """The rows of the network's input."""
        channels, height, width = self._graph.tensors[self._graph.input].shape
        return InputRows(tuple(map(InputRow, range(height))), channels * width)

    def cut(self, step: Step, rows: int, cores: Mapping[str, Core]) -> StripedLayer | None:
        """The step in stripes; None where it has none, or they cannot share their tables.

        Args:
            step: of a layer-by-layer schedule.
            rows: of a stripe.
            cores: that kernels are chosen for, by node name.
        """
        if step.node is None or step.node.name not in cores:
            return None
        core, sparse = cores[step.node.name], _is_sparse(step)
        key = (step.node.name, core, sparse, rows)
        if key not in self._known:
            self._known[key] = self._cut(step, rows, core, sparse)
        return self._known[key]

    def cascade(self, schedule: Schedule, span: Span, cores: Mapping[str, Core]) -> Cascade | None:
        """The cascade of a span, made once for the kernels of its layers; None where it cannot be one.

        Args:
            schedule: of the graph; all of them differ in kernels alone.
            span: its layers.
            cores: that kernels are chosen for, by node name.
        """
        steps = schedule.steps[span.start : span.stop]
        key = (span, tuple((cores.get(step.name), _is_sparse(step)) for step in steps))
        if key not in self._cascades:
            cut = partial(self.cut, rows=span.rows, cores=cores)
            source = self.source() if span.source else None
            self._cascades[key] = cascade(schedule, span.start, span.stop, cut, source)
        return self._cascades[key]

    def _cut(self, step: Step, rows: int, core: Core, sparse: bool) -> StripedLayer | None:
        node = step.node
        assert node is not None and isinstance(node.op, IntegerOperator)
        stripes = stripes_of(node.op, self._graph.input_shapes(node), rows)
        if stripes is None:
            return None
        calls: dict[tuple[int, ...], KernelCall] = {}
        for stripe in stripes:
            if stripe.geometry not in calls:
                try:
                    call = choose_kernel(stripe.op, stripe.shapes, core, None, node.name, sparse)
                except ModelError:
                    return None
                calls[stripe.geometry] = call
        if not has_equal_tables(list(calls.values())):
            return None
        return StripedLayer(stripes, tuple(calls[stripe.geometry] for stripe in stripes))


def _is_sparse(step: Step) -> bool:
    """Whether the weights of a step are stored as lists."""
    return "gaps" in step.call.template


def with_cascades(
    schedule: Schedule, spans: Sequence[Span], cutter: Cutter, cores: Mapping[str, Core]
) -> Schedule:
    """The schedule with cascades; a span that cannot be one stays layer by layer.

    Args:
        schedule: layer by layer.
        spans: that do not overlap.
        cutter: of the graph.
        cores: that kernels are chosen for, by node name.
    """
    for span in spans:
        one = cutter.cascade(schedule, span, cores)
        if one is not None:
            schedule = _with(schedule, one)
    return schedule


def find_spans(
    schedule: Schedule, cutter: Cutter, cores: Mapping[str, Core], spans: tuple[Span, ...] = ()
) -> tuple[Span, ...]:
    """The spans that make the arena smallest, found one after the other.

    Args:
        schedule: layer by layer.
        cutter: of the graph.
        cores: that kernels are chosen for, by node name.
        spans: that are there already.
    """
    while True:
        before = with_cascades(schedule, spans, cutter, cores)
        best = _best(before, _possible_spans(before, spans), cutter, cores)
        if best is None or best[1] >= plan_arena(before, SEARCH_ALIGNMENT).bytes:
            return spans
        spans = (*spans, best[0])


def find_source(schedule: Schedule, cutter: Cutter, cores: Mapping[str, Core]) -> Span | None:
    """The span that starts with rows of the network's input and makes the arena smallest; None if none can.

    Args:
        schedule: layer by layer.
        cutter: of the graph.
        cores: that kernels are chosen for, by node name.
    """
    spans = (
        Span(0, stop, rows, source=True) for rows in STRIPE_ROWS for stop in range(1, len(schedule.steps) + 1)
    )
    best = _best(schedule, spans, cutter, cores)
    return None if best is None else best[0]


def _best(
    schedule: Schedule, spans: Iterable[Span], cutter: Cutter, cores: Mapping[str, Core]
) -> tuple[Span, int] | None:
    """The span that makes the arena smallest, and its bytes; None where none can be a cascade."""
    bounded = []
    for span in spans:
        trial = with_cascades(schedule, [span], cutter, cores)
        if len(trial.cascades) > len(schedule.cascades):
            bounded.append((smallest_arena(trial, SEARCH_ALIGNMENT), -span.rows, span, trial))
    best: tuple[Span, int] | None = None
    # Only the most promising ones, those with the smallest bound, are planned.
    for bound, _, span, trial in sorted(bounded, key=lambda one: one[:2])[:_PLANS]:
        if best is None or bound < best[1]:
            size = plan_arena(trial, SEARCH_ALIGNMENT).bytes
            if best is None or size < best[1]:
                best = span, size
    return best


def _possible_spans(schedule: Schedule, taken: Sequence[Span]) -> Iterator[Span]:
    """Spans beside those that are taken."""
    count = len(schedule.steps)
    used = {index for span in taken for index in range(span.start, span.stop)}
    for rows in STRIPE_ROWS:
        for start in range(count):
            for stop in range(start + 1, count + 1):
                if stop - 1 in used or schedule.steps[stop - 1].node is None:
                    break
                yield Span(start, stop, rows)


def _with(schedule: Schedule, one: Cascade) -> Schedule:
    """The schedule with a cascade; its steps get the call of a stripe away from the edges."""
    steps = list(schedule.steps)
    for index, calls in one.calls.items():
        steps[index] = replace(steps[index], call=calls[len(calls) // 2])
    buffers = list(schedule.buffers)
    if one.source is not None:
        buffers[one.source] = replace(buffers[one.source], place="arena")
    cascades = sorted((*schedule.cascades, one), key=lambda other: other.start)
    return replace(schedule, steps=tuple(steps), buffers=tuple(buffers), cascades=tuple(cascades))

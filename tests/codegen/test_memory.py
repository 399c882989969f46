"""The arena plan: never an overlap, close to the optimum, in-place where allowed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from deployq.alphabet import alphabet
from deployq.codegen.arena import plan_arena
from deployq.codegen.memory import Block, Lead, Leads, lower_bound, place, plan
from deployq.codegen.optimize import build_schedule
from tests.integer_networks import NETWORKS, residual_network

_BLOCKS = st.lists(
    st.builds(
        lambda size, first, length: Block(size, first, first + length),
        st.integers(1, 40),
        st.integers(0, 6),
        st.integers(0, 3),
    ),
    max_size=12,
)


_LEADS: st.SearchStrategy[Lead] = st.one_of(st.integers(-40, 40), st.just("same"))


def _chain(sizes: list[tuple[int, int, Lead]]) -> tuple[list[Block], dict[tuple[int, int], Lead]]:
    """Blocks (size, scratch, lead) in a chain: each may overwrite the one before it, scratch may not."""
    blocks: list[Block] = []
    leads: dict[tuple[int, int], Lead] = {}
    for index, (size, scratch, lead) in enumerate(sizes):
        blocks += [Block(size, index, index + 1), Block(scratch, index, index)]
        if index:
            leads[2 * index - 2, 2 * index] = lead
    return blocks, leads


_CHAINS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), _LEADS), max_size=4).map(_chain)


def _leads_allow(lead: Lead | None, distance: int) -> bool:
    """Whether an output may start `distance` bytes before its input."""
    return lead is not None and (distance == 0 if lead == "same" else distance >= lead)


def _assert_apart(
    blocks: Sequence[Block], offsets: Sequence[int], total: int, leads: Leads | None = None
) -> None:
    spans = [(offset, offset + block.size) for block, offset in zip(blocks, offsets, strict=True)]
    assert all(start >= 0 and end <= total for start, end in spans)
    for i, j in combinations(range(len(blocks)), 2):
        apart = spans[i][1] <= spans[j][0] or spans[j][1] <= spans[i][0]
        led = any(
            _leads_allow((leads or {}).get((source, result)), spans[source][0] - spans[result][0])
            for source, result in ((i, j), (j, i))
        )
        assert not blocks[i].overlaps(blocks[j]) or apart or led


def _optimum(blocks: Sequence[Block], leads: Leads) -> int:
    """Bytes of the best plan without alignment, by an integer program.

    Offsets and the total, then one binary variable per way in which two blocks alive together may lie.
    """
    numbers = [abs(lead) for lead in leads.values() if lead != "same"]
    large = 2 * sum(block.size for block in blocks) + max(numbers, default=0) + 1
    rows: list[tuple[dict[int, float], float]] = []  # sum of coefficients >= bound
    total, variables = len(blocks), len(blocks) + 1
    rows += [({total: 1, i: -1}, block.size) for i, block in enumerate(blocks)]
    for i, j in combinations(range(len(blocks)), 2):
        if not blocks[i].overlaps(blocks[j]):
            continue
        # (above, below, distance of their offsets), each of a way
        ways = [[(j, i, blocks[i].size)], [(i, j, blocks[j].size)]]
        for above, below in ((i, j), (j, i)):
            lead = leads.get((above, below))
            if lead is not None:
                same = [(above, below, 0), (below, above, 0)]
                ways.append(same if lead == "same" else [(above, below, lead)])
        for offset, way in enumerate(ways):
            for above, below, distance in way:
                rows.append(({above: 1, below: -1, variables + offset: -large}, distance - large))
        rows.append(({variables + offset: 1 for offset in range(len(ways))}, 1))
        variables += len(ways)
    matrix = np.zeros((len(rows), variables))
    for index, (coefficients, _) in enumerate(rows):
        for variable, value in coefficients.items():
            matrix[index, variable] = value
    binary = np.arange(variables) > total
    result = milp(
        c=np.eye(variables)[total],
        constraints=LinearConstraint(matrix, [bound for _, bound in rows], np.inf),
        integrality=np.ones(variables),
        bounds=Bounds(0, np.where(binary, 1, large)),
    )
    assert result.success, result.message
    return round(float(result.fun))


@given(_BLOCKS, st.sampled_from([1, 4, 16]))
def test_blocks_alive_together_never_overlap(blocks: list[Block], alignment: int) -> None:
    result = plan(blocks, alignment)
    _assert_apart(blocks, result.offsets, result.bytes)
    assert all(offset % alignment == 0 for offset in result.offsets)
    assert result.bytes >= lower_bound(blocks, alignment)


@settings(max_examples=40, deadline=None)
@given(_BLOCKS.map(lambda blocks: blocks[:6]))
def test_small_plans_are_optimal(blocks: list[Block]) -> None:
    """Placing blocks lowest-first in every order includes an optimal plan."""
    best = min(place(blocks, order, 4).bytes for order in permutations(range(len(blocks))))
    assert plan(blocks, 4).bytes == best


@settings(max_examples=40, deadline=None)
@given(_BLOCKS.map(lambda blocks: blocks[:6]))
def test_small_plans_equal_an_exact_solver(blocks: list[Block]) -> None:
    assert plan(blocks, 1).bytes == _optimum(blocks, {})


@settings(max_examples=60, deadline=None)
@given(_CHAINS)
def test_overwriting_chains_are_exact_and_near_optimal(
    chain: tuple[list[Block], dict[tuple[int, int], Lead]],
) -> None:
    blocks, leads = chain
    result = plan(blocks, 1, leads)
    _assert_apart(blocks, result.offsets, result.bytes, leads)
    assert lower_bound(blocks, 1, leads) <= _optimum(blocks, leads) <= result.bytes
    assert result.bytes <= plan(blocks, 1).bytes


def test_an_output_may_start_before_its_input() -> None:
    blocks = [Block(100, 0, 1), Block(120, 1, 2)]
    assert plan(blocks, 4).bytes == 220
    assert plan(blocks, 4, {(0, 1): 30}).bytes == 132
    assert plan(blocks, 4, {(0, 1): 0}).bytes == 120
    assert plan(blocks, 4, {(0, 1): -60}).bytes == 120
    assert plan(blocks, 4, {(0, 1): "same"}).bytes == 120


def test_outputs_at_the_place_of_their_inputs_leave_room_for_scratch_memory() -> None:
    """Depthwise and pointwise layers in turn, the former in place with scratch memory."""
    chain = [Block(8000, step, step + 1) for step in range(10)]
    scratch = [Block(4000, step, step) for step in range(1, 10, 2)]
    leads: dict[tuple[int, int], Lead] = {(step - 1, step): "same" for step in range(1, 10, 2)}
    assert plan([*chain, *scratch], 4, leads).bytes == 16000


def test_a_chain_needs_the_two_largest_neighbours() -> None:
    chain = [Block(100, 0, 1), Block(60, 1, 2), Block(80, 2, 3), Block(20, 3, 4)]
    assert plan(chain, 4).bytes == 160


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("features", [frozenset(), frozenset({"dsp"})])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_no_live_buffer_is_overwritten(make: object, features: frozenset[str], layout: str) -> None:
    """Execute the plan on memory filled with buffer names: every read finds what was written."""
    graph = make(np.random.default_rng(5), alphabet("midrise-2"))  # type: ignore[operator]
    schedule = build_schedule(graph, features, layout)
    arena = plan_arena(schedule, 8)
    memory = np.full(arena.bytes, -1)
    for index, step in enumerate(schedule.steps):
        for buffer in step.inputs:
            offset = arena.buffers[buffer]
            if offset is not None:
                assert np.all(memory[offset : offset + schedule.buffers[buffer].size] == buffer)
        scratch, output = arena.scratch[index], arena.buffers[step.output]
        regions = [(arena.buffers[b], schedule.buffers[b].size) for b in step.inputs]
        if scratch is not None:
            assert scratch % 4 == 0
            regions.append((output, schedule.buffers[step.output].size))
            for offset, size in regions:
                apart = (
                    offset is None or offset + size <= scratch or scratch + step.call.scratch_bytes <= offset
                )
                assert apart
            memory[scratch : scratch + step.call.scratch_bytes] = -1
        if output is not None:
            memory[output : output + schedule.buffers[step.output].size] = step.output


@pytest.mark.parametrize("function", ["dq_add_a8", "dq_clip_a8"])
def test_element_wise_layers_work_in_place(function: str) -> None:
    """An addition takes the place of one of its inputs, a ReLU or clamp that of its only one."""
    graph = residual_network(np.random.default_rng(5), alphabet("binary"))
    schedule = build_schedule(graph, frozenset(), "nhwc")
    arena = plan_arena(schedule, 4)
    steps = [step for step in schedule.steps if step.call.function == function]
    assert steps
    for step in steps:
        assert arena.buffers[step.output] is not None
        assert arena.buffers[step.output] in [arena.buffers[buffer] for buffer in step.inputs]

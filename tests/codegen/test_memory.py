"""The arena plan: never an overlap, close to the optimum, in-place where allowed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployq.alphabet import alphabet
from deployq.codegen.arena import plan_arena
from deployq.codegen.memory import Block, lower_bound, place, plan
from deployq.codegen.schedule import build_schedule
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


def _assert_apart(blocks: Sequence[Block], offsets: Sequence[int], total: int) -> None:
    spans = [(offset, offset + block.size) for block, offset in zip(blocks, offsets, strict=True)]
    assert all(start >= 0 and end <= total for start, end in spans)
    for (left, a), (right, b) in combinations(zip(blocks, spans, strict=True), 2):
        assert not left.overlaps(right) or a[1] <= b[0] or b[1] <= a[0]


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


def test_element_wise_layers_work_in_place() -> None:
    graph = residual_network(np.random.default_rng(5), alphabet("binary"))
    schedule = build_schedule(graph, frozenset(), "nhwc")
    arena = plan_arena(schedule, 4)
    add = next(step for step in schedule.steps if step.call.function == "dq_add_a8")
    assert arena.buffers[add.output] in [arena.buffers[buffer] for buffer in add.inputs]

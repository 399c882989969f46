"""The arena plan: offsets of buffers from their lifetimes.

Finding the best offsets is NP-hard (dynamic storage allocation). Here every order of placement
gives a plan, each buffer at the lowest offset that is free while it lives; several orders are
tried, then improved by swapping, and the search ends early at the lower bound (the largest sum of
sizes that live at the same time). A kernel that reads its input ahead of what it writes may
overwrite it: such pairs of buffers may overlap as far as the kernel's lead allows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

_SEARCH_SEED = 1
_SEARCH_ROUNDS = 400

#: Bytes by which an output must start before an input, so that it may overwrite it; negative where it may
#: start behind; "same" where it may start at the same offset and nowhere else.
Lead = int | Literal["same"]

#: (index of an input, index of an output) -> lead.
Leads = Mapping[tuple[int, int], Lead]


@dataclass(frozen=True)
class Block:
    """Memory needed from step `first` to step `last`, both included; `size` in bytes."""

    size: int
    first: int
    last: int

    def overlaps(self, other: Block) -> bool:
        """Whether both are needed at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Offsets in bytes, one per block, and the bytes of the whole arena."""

    offsets: tuple[int, ...]
    bytes: int


def lower_bound(blocks: Sequence[Block], alignment: int, leads: Leads | None = None) -> int:
    """Bytes no plan can do without: the largest sum of aligned sizes alive at one step.

    Where an output may overwrite inputs, only the larger side counts.
    """
    leads = leads or {}
    bound = 0
    for step in {block.first for block in blocks}:
        alive = {i for i, block in enumerate(blocks) if block.first <= step <= block.last}
        shared = [pair for pair in leads if alive.issuperset(pair)]
        sources, results = ({pair[side] for pair in shared} for side in range(2))
        for left_out in (sources, results) if shared else (set(),):
            sizes = [blocks[i].size for i in alive - left_out]
            bound = max(bound, _aligned_sum(sizes, alignment))
    return bound


def _aligned_sum(sizes: Sequence[int], alignment: int) -> int:
    """Bytes of blocks side by side; only the last one, the least filled, may leave its padding out."""
    padded = [_align(size, alignment) for size in sizes]
    spare = max((full - size for full, size in zip(padded, sizes, strict=True)), default=0)
    return sum(padded) - spare


def place(blocks: Sequence[Block], order: Sequence[int], alignment: int, leads: Leads | None = None) -> Plan:
    """The plan of one order: each block at the lowest offset free during its life."""
    leads = leads or {}
    offsets = [0] * len(blocks)
    placed: list[int] = []
    for index in order:
        block = blocks[index]
        offset = 0
        for low, high in sorted(
            interval
            for i in placed
            if blocks[i].overlaps(block)
            for interval in _forbidden(
                block.size, offsets[i], blocks[i].size, leads.get((i, index)), leads.get((index, i))
            )
        ):
            if low < offset < high:
                offset = _align(high, alignment)
        offsets[index] = offset
        placed.append(index)
    total = max((offset + block.size for offset, block in zip(offsets, blocks, strict=True)), default=0)
    return Plan(tuple(offsets), total)


def _forbidden(
    size: int, start: int, taken: int, as_output: Lead | None, as_input: Lead | None
) -> list[tuple[int, int]]:
    """The open intervals of offsets that a block of `size` bytes must not have beside a placed one.

    Args:
        size: of the block to place.
        start: offset of the placed block.
        taken: its size.
        as_output: lead if the block is the output of a kernel that reads the placed one.
        as_input: lead if the block is the input of a kernel that writes the placed one.
    """
    low, high = start - size, start + taken
    if as_output == "same" or as_input == "same":
        return [(low, start), (start, high)]
    if as_output is not None:
        low = min(max(low, start - as_output), high)
    if as_input is not None:
        high = max(min(high, start + as_input), low)
    return [(low, high)]


def plan(blocks: Sequence[Block], alignment: int, leads: Leads | None = None) -> Plan:
    """A plan at or near the smallest arena.

    Args:
        blocks: memory to place.
        alignment: of every offset, in bytes.
        leads: pairs of blocks that may overlap, and how far.
    """
    leads = leads or {}
    separate = _search(blocks, alignment, leads)
    if "same" not in leads.values() or separate.bytes == lower_bound(blocks, alignment, leads):
        return separate
    return min(separate, _joined(blocks, alignment, leads), key=lambda one: one.bytes)


def _joined(blocks: Sequence[Block], alignment: int, leads: Leads) -> Plan:
    """A plan in which all pairs that may start at the same offset do: each is one block.

    Placed one by one they seldom meet, since each takes the lowest free offset.
    """
    group = list(range(len(blocks)))
    for (source, result), lead in sorted(leads.items(), key=lambda item: item[0]):
        if lead == "same":
            kept, dropped = group[source], group[result]
            group = [kept if one == dropped else one for one in group]
    groups = sorted(set(group))
    members = [[block for block, one in zip(blocks, group, strict=True) if one == g] for g in groups]
    joined = [
        Block(max(b.size for b in those), min(b.first for b in those), max(b.last for b in those))
        for those in members
    ]
    position = [groups.index(one) for one in group]
    apart = {
        (position[source], position[result]): lead
        for (source, result), lead in leads.items()
        if position[source] != position[result]
    }
    found = _search(joined, alignment, apart)
    return Plan(tuple(found.offsets[index] for index in position), found.bytes)


def _search(blocks: Sequence[Block], alignment: int, leads: Leads) -> Plan:
    """The best of several orders of placement and of many small changes to the best one."""
    indices = range(len(blocks))
    orders = [
        sorted(indices, key=lambda i: (-blocks[i].size, blocks[i].first, i)),
        sorted(indices, key=lambda i: (-blocks[i].size * (blocks[i].last - blocks[i].first + 1), i)),
        sorted(indices, key=lambda i: (blocks[i].first - blocks[i].last, -blocks[i].size, i)),
        sorted(indices, key=lambda i: (blocks[i].first, -blocks[i].size, i)),
        sorted(indices, key=lambda i: (-blocks[i].last, -blocks[i].size, i)),
    ]
    best_order = min(orders, key=lambda order: place(blocks, order, alignment, leads).bytes)
    best = place(blocks, best_order, alignment, leads)
    bound = lower_bound(blocks, alignment, leads)
    generator = random.Random(_SEARCH_SEED)
    for _ in range(_SEARCH_ROUNDS if len(blocks) > 1 else 0):
        if best.bytes == bound:
            break
        candidate = list(best_order)
        for _ in range(generator.randint(1, 2)):
            first, second = generator.sample(indices, 2)
            candidate.insert(second, candidate.pop(first))
        attempt = place(blocks, candidate, alignment, leads)
        if attempt.bytes <= best.bytes:
            best, best_order = attempt, candidate
    return best


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment

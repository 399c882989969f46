"""The arena plan: offsets of buffers from their lifetimes.

Finding the best offsets is NP-hard (dynamic storage allocation). Here every order of placement
gives a plan, each buffer at the lowest offset that is free while it lives; several orders are
tried, then improved by swapping, and the search ends early at the lower bound (the largest sum of
sizes that live at the same time).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_SEARCH_SEED = 1
_SEARCH_ROUNDS = 400


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


def lower_bound(blocks: Sequence[Block], alignment: int) -> int:
    """Bytes no plan can do without: the largest sum of aligned sizes alive at one step."""
    steps = {block.first for block in blocks}
    return max(
        (_aligned_sum([b.size for b in blocks if b.first <= step <= b.last], alignment) for step in steps),
        default=0,
    )


def _aligned_sum(sizes: Sequence[int], alignment: int) -> int:
    """Bytes of blocks side by side; only the last one, the least filled, may leave its padding out."""
    padded = [_align(size, alignment) for size in sizes]
    spare = max((full - size for full, size in zip(padded, sizes, strict=True)), default=0)
    return sum(padded) - spare


def place(blocks: Sequence[Block], order: Sequence[int], alignment: int) -> Plan:
    """The plan of one order: each block at the lowest offset free during its life."""
    offsets = [0] * len(blocks)
    placed: list[int] = []
    for index in order:
        block = blocks[index]
        taken = sorted((offsets[i], blocks[i].size) for i in placed if blocks[i].overlaps(block))
        offset = 0
        for start, size in taken:
            if offset + block.size <= start:
                break
            offset = max(offset, _align(start + size, alignment))
        offsets[index] = offset
        placed.append(index)
    total = max((offset + block.size for offset, block in zip(offsets, blocks, strict=True)), default=0)
    return Plan(tuple(offsets), total)


def plan(blocks: Sequence[Block], alignment: int) -> Plan:
    """A plan at or near the smallest arena.

    Args:
        blocks: memory to place.
        alignment: of every offset, in bytes.
    """
    indices = range(len(blocks))
    orders = [
        sorted(indices, key=lambda i: (-blocks[i].size, blocks[i].first, i)),
        sorted(indices, key=lambda i: (-blocks[i].size * (blocks[i].last - blocks[i].first + 1), i)),
        sorted(indices, key=lambda i: (blocks[i].first - blocks[i].last, -blocks[i].size, i)),
        sorted(indices, key=lambda i: (blocks[i].first, -blocks[i].size, i)),
        sorted(indices, key=lambda i: (-blocks[i].last, -blocks[i].size, i)),
    ]
    best_order = min(orders, key=lambda order: place(blocks, order, alignment).bytes)
    best = place(blocks, best_order, alignment)
    bound = lower_bound(blocks, alignment)
    generator = random.Random(_SEARCH_SEED)
    for _ in range(_SEARCH_ROUNDS if len(blocks) > 1 else 0):
        if best.bytes == bound:
            break
        candidate = list(best_order)
        for _ in range(generator.randint(1, 2)):
            first, second = generator.sample(indices, 2)
            candidate.insert(second, candidate.pop(first))
        attempt = place(blocks, candidate, alignment)
        if attempt.bytes <= best.bytes:
            best, best_order = attempt, candidate
    return best


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment

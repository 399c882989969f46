"""What is suspicious about a network and its calibration samples, though nothing forbids it."""

from __future__ import annotations

import numpy as np

from deployq.data import Samples
from deployq.graph import Graph
from deployq.ops import WeightedOperator

#: Samples compared together.
_BLOCK = 256


def doubts(graph: Graph, samples: Samples) -> tuple[str, ...]:
    """Warnings for the report, one sentence each.

    Args:
        graph: simplified float graph.
        samples: calibration samples.
    """
    zero = [
        node.name
        for node in graph.nodes
        if isinstance(node.op, WeightedOperator) and not np.any(node.op.weight)
    ]
    found = [f"all weights of {name} are zero: was the model trained?" for name in zero]
    if len(samples) > 1 and _all_equal(samples):
        found.append(
            f"all {len(samples)} calibration samples are equal: ranges and weights fit this one sample only"
        )
    return tuple(found)


def _all_equal(samples: Samples) -> bool:
    """Whether every sample is the first one; stops at the first that is not."""
    first, raw = samples.raw[:1], samples.raw
    return all(bool(np.all(raw[start : start + _BLOCK] == first)) for start in range(0, len(raw), _BLOCK))

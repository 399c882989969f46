"""Graph-to-graph passes over the float graph. Each is a pure function and exact up to float rounding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from deployq.errors import ModelError
from deployq.graph import Graph
from deployq.ops import WeightedOperator
from deployq.passes.fold_affine import fold_affine
from deployq.passes.fold_affine_forward import fold_affine_forward
from deployq.passes.fold_clip import fold_clip
from deployq.passes.lower_affine import lower_affine
from deployq.passes.merge_affine import merge_affine
from deployq.passes.merge_reshape import merge_reshape
from deployq.passes.rewrite import until_stable

#: Returns the very graph it was given when there is nothing to do.
Pass = Callable[[Graph], Graph]

#: Repeated until none of them changes anything: one opens the way for another, as in Conv-Relu-BN-Relu6-BN.
FOLDING: tuple[Pass, ...] = (
    merge_reshape,  # first, so that the others see true neighbours
    merge_affine,  # fewer maps to fold; drops identities
    fold_affine,  # BatchNormalization and biases cost nothing inside a weighted layer
    fold_clip,  # activations cost nothing as bounds; after fold_affine, which is simpler without them
)

#: Run once, on what folding left.
LOWERING: tuple[Pass, ...] = (
    fold_affine_forward,  # only what found no weighted layer before it may change the columns of the next one
    lower_affine,  # an Affine has no integer form
    merge_reshape,  # lowering a vector's Affine adds reshapes
)


def simplify(graph: Graph) -> Graph:
    """The same function with as few layers as the passes can reach, and no Affine left.

    Raises:
        ModelError: folding takes weights beyond float32 (a BatchNormalization of absurd gain).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        result = _run(LOWERING, until_stable(partial(_run, FOLDING), graph))
    for node in result.nodes:
        if isinstance(node.op, WeightedOperator) and not all(
            np.all(np.isfinite(values)) for values in (node.op.weight, node.op.bias)
        ):
            raise ModelError("folding BatchNormalization takes the weights beyond float32", where=node.source)
    return result


def _run(passes: tuple[Pass, ...], graph: Graph) -> Graph:
    for step in passes:
        graph = step(graph)
    return graph


__all__ = ["FOLDING", "LOWERING", "Pass", "simplify"]

"""The integer network in float32: the same grid of values, rounded as the int8 tensors are.

About three times as fast as the exact integers and, ties of a rounding aside, equal to them; used to
compare assignments, never to deploy one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deployq.arithmetic import INT8_MAX, INT8_MIN
from deployq.graph import Graph, Node, Quantization
from deployq.ops import FloatOperator, QuantizedWeights, WeightedOperator
from deployq.ops.base import Array


def round_to(values: Array, quantization: Quantization) -> Array:
    """Real float32 values to the nearest real values of an int8 tensor; works in place."""
    values *= np.float32(1 / quantization.scale)
    values += np.float32(0.5)
    np.floor(values, out=values)
    low, high = INT8_MIN - quantization.zero_point, INT8_MAX - quantization.zero_point
    np.clip(values, np.float32(low), np.float32(high), out=values)
    values *= np.float32(quantization.scale)
    return values


def int8_codes(values: Array, quantization: Quantization) -> Array:
    """The int8 codes of values that `round_to` gave."""
    codes = np.rint(values * np.float32(1 / quantization.scale))
    codes += np.float32(quantization.zero_point)
    return codes.astype(np.int8)


def quantized_operator(operator: WeightedOperator, weights: QuantizedWeights) -> FloatOperator:
    """The float operator with the real values of quantized weights."""
    real = (weights.levels * weights.scales[:, None]).astype(np.float32)
    fields: dict[str, Any] = {"weight": real.reshape(operator.weight.shape), "bias": weights.bias}
    return replace(operator, **fields)  # type: ignore[type-var]


def run_rounded(
    node: Node, operator: FloatOperator, inputs: Sequence[Array], quantization: Quantization
) -> Array:
    """The output of a node, rounded to its int8 values.

    Args:
        node: of the float graph.
        operator: of the node, with quantized weights if it has any.
        inputs: real values of the int8 inputs, float32.
        quantization: of the output.
    """
    output = operator.run(inputs)
    if operator.keeps_quantization:
        return output
    if any(np.may_share_memory(output, given) for given in inputs):
        output = output.copy()
    return round_to(output, quantization)


class RoundedNetwork:
    """A float graph and the quantization of its tensors; runs it with any weights.

    Args:
        graph: simplified float graph.
        known: quantization of every tensor in the integer graph.
        until: tensor that is measured; nodes after it are not run.
    """

    def __init__(self, graph: Graph, known: Mapping[str, Quantization], until: str) -> None:
        self.graph = graph
        self.until = until
        self._known = known
        self._needed = _needed_nodes(graph, until)

    def run(
        self, operators: Mapping[str, FloatOperator], values: dict[str, Array], changed: set[str]
    ) -> Array:
        """Compute the measured tensor.

        Args:
            operators: of the weighted nodes, by name, with quantized weights.
            values: tensors known already, by name; those computed are added.
            changed: tensors to compute anew, with all that depend on them, though they are in `values`.

        Returns:
            Real values (N, ...).
        """
        stale = set(changed)
        for node in self._needed:
            if node.output not in values or node.output in stale or not stale.isdisjoint(node.inputs):
                stale.add(node.output)
                operator: Any = operators.get(node.name, node.op)
                inputs = [values[name] for name in node.inputs]
                values[node.output] = run_rounded(node, operator, inputs, self._known[node.output])
        return values[self.until]


def _needed_nodes(graph: Graph, tensor: str) -> tuple[Node, ...]:
    needed = {tensor}
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            needed.update(node.inputs)
            nodes.append(node)
    return tuple(reversed(nodes))

"""Integer graphs with arbitrary codes: what code generation makes of an assignment, before it is solved.

The size of a table and the scratch memory of a kernel depend on shapes, widths and the target, not on
the codes, so a graph whose weights are all at the level nearest to zero has the sizes of the real one; a
ternary layer with many zeros may turn out smaller, see `deployq.codegen.sparse`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from deployq.alphabet import Alphabet
from deployq.graph import Graph, Node, Quantization
from deployq.ops import QuantizedWeights, WeightedOperator


def known_quantizations(graph: Graph, calibrated: Mapping[str, Quantization]) -> dict[str, Quantization]:
    """What every tensor has in the integer graph: the calibrated one unless an operator fixes another."""
    known = {graph.input: calibrated[graph.input]}
    for node in graph.nodes:
        sources = [known[name] for name in node.inputs]
        known[node.output] = node.op.output_quantization(sources, calibrated[node.output])  # type: ignore[attr-defined]
    return known


def weighted_nodes(graph: Graph) -> tuple[Node, ...]:
    """The nodes with weights, in the order of execution."""
    return tuple(node for node in graph.nodes if isinstance(node.op, WeightedOperator))


def trial_graph(
    graph: Graph, calibrated: Mapping[str, Quantization], alphabets: Mapping[str, Alphabet]
) -> Graph:
    """The integer graph of an assignment, every weight at the level nearest to zero.

    Args:
        graph: simplified float graph.
        calibrated: quantization of every tensor.
        alphabets: of every weighted node, by name.
    """
    known = known_quantizations(graph, calibrated)
    nodes = []
    for node in graph.nodes:
        operator = node.op
        sources, output = [known[name] for name in node.inputs], known[node.output]
        if isinstance(operator, WeightedOperator):
            weights = _arbitrary_codes(operator, alphabets[node.name])
            nodes.append(replace(node, op=operator.quantized(weights, sources[0], output)))
        else:
            nodes.append(replace(node, op=operator.integer(sources, output)))  # type: ignore[attr-defined]
    tensors = {name: replace(tensor, quantization=known[name]) for name, tensor in graph.tensors.items()}
    return Graph(graph.name, graph.input, graph.output, tuple(nodes), tensors)


def _arbitrary_codes(operator: WeightedOperator, letters: Alphabet) -> QuantizedWeights:
    rows = operator.weight.reshape(operator.weight.shape[0], -1)
    largest = np.abs(rows).max(axis=1).astype(np.float64)
    levels = np.full(rows.shape, letters.values[letters.neutral_code], dtype=np.int16)
    scales = np.maximum(largest, 1e-9 * (largest.max() or 1.0)) / letters.largest
    return QuantizedWeights(levels, scales, operator.bias, letters)

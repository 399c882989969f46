"""Integer graphs with typical codes: what code generation makes of an assignment, before it is solved.

The size of a table depends on shapes, widths and the target, not on the codes. Which variant of a kernel
a layer gets, and its scratch memory, depend on the codes through what can be proven of their sums, and
a ternary layer with many zeros may turn out smaller (`codegen/packing/gaps.py`); so the codes are rounded
weights at a usual scale, and the sizes of code and scratch memory are estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from deployq.alphabet import Alphabet
from deployq.graph import Graph, Node, Quantization
from deployq.ops import QuantizedWeights, WeightedOperator

#: Standard deviations of a row that the largest level stands for, roughly what minimises the squared error.
_CLIP_AT_ONE_BIT, _CLIP_PER_BIT = 0.8, 0.6


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
    """The integer graph of an assignment, every weight rounded.

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
            weights = _typical_codes(operator, alphabets[node.name])
            nodes.append(replace(node, op=operator.quantized(weights, sources[0], output)))
        else:
            nodes.append(replace(node, op=operator.integer(sources, output)))  # type: ignore[attr-defined]
    tensors = {name: replace(tensor, quantization=known[name]) for name, tensor in graph.tensors.items()}
    return Graph(graph.name, graph.input, graph.output, tuple(nodes), tensors)


def _typical_codes(operator: WeightedOperator, letters: Alphabet) -> QuantizedWeights:
    """Rounded weights at about the scale that suits a normal distribution: what solvers end near to."""
    rows = operator.weight.reshape(operator.weight.shape[0], -1).astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    clipped = np.minimum(_CLIP_AT_ONE_BIT + _CLIP_PER_BIT * (letters.bits - 1), 4.0) * rows.std(axis=1)
    reach = np.where(clipped > 0, np.minimum(clipped, largest), largest)
    scales = np.maximum(reach, 1e-9 * (largest.max() or 1.0)) / letters.largest
    levels = letters.nearest(rows / scales[:, np.newaxis]).astype(np.int16)
    return QuantizedWeights(levels, scales, operator.bias, letters)

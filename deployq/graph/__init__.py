"""The intermediate representation: immutable graphs of tensors and operators.

Shapes are per sample, without a batch dimension: ``(C, H, W)`` or ``(features,)``. Arrays carry
the batch first: ``(N, C, H, W)`` or ``(N, features)``.
"""

from deployq.graph.ir import Graph, GraphError, Node, Operator, Quantization, Shape, Tensor
from deployq.graph.run import last_uses, run_graph

__all__ = [
    "Graph",
    "GraphError",
    "Node",
    "Operator",
    "Quantization",
    "Shape",
    "Tensor",
    "last_uses",
    "run_graph",
]

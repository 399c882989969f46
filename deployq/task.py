"""What a network is for, as far as it matters here: whether its output is compared as class scores."""

from __future__ import annotations

from deployq.graph import Graph

TASKS = ("auto", "classification", "regression")


def scores_tensor(graph: Graph) -> str:
    """The output of a graph, float or integer, or what enters a softmax there, which resolves more."""
    producer = graph.producer(graph.output)
    return producer.inputs[0] if producer is not None and _ends_in_softmax(graph) else graph.output


def is_classifier(graph: Graph, task: str) -> bool:
    """Whether a network gives scores of classes.

    With "auto" it does if it ends in a softmax. The shape of the output does not tell: a regression of
    several values looks like logits, and must not be treated as if all its values could move together.
    Who has labels knows that they are of classes and says so.

    Args:
        graph: float or integer graph.
        task: one of `TASKS`.
    """
    return task == "classification" or (task == "auto" and _ends_in_softmax(graph))


def _ends_in_softmax(graph: Graph) -> bool:
    producer = graph.producer(graph.output)
    return producer is not None and producer.op.kind == "softmax"

"""The distance of a quantized network from the float one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from deployq.allocation.divergence import Reference, measure_of
from deployq.graph import Graph, Node, Tensor
from deployq.ops.linear import Linear
from deployq.ops.softmax import Softmax
from deployq.task import scores_tensor


def vector_graph(inputs: int, outputs: int, *, with_softmax: bool = False) -> Graph:
    weight = np.ones((outputs, inputs), np.float32)
    nodes = [Node("fc", Linear(weight, np.zeros(outputs)), ("x",), "y")]
    tensors = {"x": Tensor("x", (inputs,)), "y": Tensor("y", (outputs,))}
    if with_softmax:
        nodes.append(Node("softmax", Softmax(), ("y",), "z"))
        tensors["z"] = Tensor("z", (outputs,))
    return Graph("vector", "x", nodes[-1].output, tuple(nodes), tensors)


@pytest.mark.parametrize(
    ("graph", "task", "measure", "tensor"),
    (
        (vector_graph(20, 4), "classification", "KL", "y"),
        (vector_graph(20, 4), "auto", "squared error", "y"),
        (vector_graph(3, 4, with_softmax=True), "auto", "KL", "y"),
        (vector_graph(3, 4, with_softmax=True), "regression", "squared error", "y"),
        (vector_graph(20, 1), "auto", "squared error", "y"),
    ),
)
def test_classifiers_are_compared_by_kl_before_their_softmax(
    graph: Graph, task: str, measure: str, tensor: str
) -> None:
    assert (measure_of(graph, task), scores_tensor(graph)) == (measure, tensor)


def test_kl_is_that_of_scipy_and_ignores_what_all_logits_share() -> None:
    rng = np.random.default_rng(0)
    analog, quantized = rng.normal(size=(2, 30, 5)) * 3
    reference = Reference("KL", (analog[:20], analog[20:]))
    outputs = [quantized[:20], quantized[20:]]
    expected = rel_entr(softmax(analog, axis=1), softmax(quantized, axis=1)).sum(axis=1)
    np.testing.assert_allclose(reference.losses(outputs), expected)
    assert reference.divergence(outputs) == pytest.approx(expected.mean())
    assert reference.divergence([analog[:20] + 7, analog[20:] - 300]) == pytest.approx(0, abs=1e-12)
    assert reference.divergence(outputs[::2], every=2) == pytest.approx(expected[:20].mean())


def test_huge_logits_do_not_overflow() -> None:
    reference = Reference("KL", (np.array([[1e4, -1e4]]),))
    assert reference.divergence([np.array([[-1e4, 1e4]])]) == pytest.approx(2e4)


def test_the_squared_error_is_a_share_of_the_variance() -> None:
    rng = np.random.default_rng(0)
    analog = rng.normal(size=(50, 3, 4, 4)) + 5
    reference = Reference("squared error", (analog[:25], analog[25:]))
    constant = np.broadcast_to(analog.mean(axis=0), (25, 3, 4, 4))
    assert reference.divergence([constant, constant]) == pytest.approx(1)
    assert reference.divergence([analog[:25], analog[25:]]) == 0
    silent = Reference("squared error", (np.ones((4, 2)),))
    assert silent.divergence([np.ones((4, 2))]) == 0


def test_agreement_is_that_of_the_largest_outputs() -> None:
    analog = np.eye(4)
    reference = Reference("KL", (analog[:2], analog[2:]))
    assert reference.agreement([analog[:2], analog[2:]]) == 100
    assert reference.agreement([analog[:2], analog[[3, 3]]]) == 75

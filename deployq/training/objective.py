"""How far the integer network is from the float one, and on which tensor that is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor
from torch.nn import functional

from deployq.graph import Graph
from deployq.task import is_classifier, scores_tensor

#: Of a constant output; its squared error is not divided by zero.
_SMALLEST_VARIANCE = 1e-30


#: Temperatures tried, ascending, and the entropy from which probabilities say something of every class, as
#: a part of the largest there is.
_TEMPERATURES, _ENOUGH_ENTROPY = (1.0, 2.0, 4.0, 8.0, 16.0), 0.125


@dataclass(frozen=True)
class TuningObjective:
    """What tuning makes small.

    A classifier is compared by the Kullback-Leibler divergence KL(float || integer) of its class
    probabilities, in nats: it weighs the differences that can change a decision, and ignores what is
    common to all logits. Any other network is compared by the squared error of its output, as a share
    of the float output's variance.

    Attributes:
        tensor: compared tensor: the output of the graph, or the logits before a final softmax.
        loss: "divergence" or "squares".
        temperature: what logits are divided by (and the divergence multiplied with its square), after
            Hinton et al., 1503.02531; see `softened`.
    """

    tensor: str
    loss: str
    temperature: float = 1.0

    @staticmethod
    def of(graph: Graph, task: str) -> TuningObjective:
        """The objective of a graph, float or integer, for a task of `deployq.task`."""
        if is_classifier(graph, task):
            return TuningObjective(scores_tensor(graph), "divergence")
        return TuningObjective(graph.output, "squares")

    def softened(self, target: Tensor) -> TuningObjective:
        """The objective with the temperature that suits the float network's outputs (n, ...) on some samples.

        The lowest at which their mean entropy is an eighth of the largest possible one. A network is so
        sure of the samples it was trained on that nearly all of them have no divergence, whatever becomes
        of their logits, and the few others decide alone. With 1,024 images of MNIST (entropy 0.0006 nats of
        2.3; temperature 4) tuning by the plain divergence made the binary MLP worse on other images; the
        two networks on CIFAR-10 (0.4 nats) keep the temperature 1.
        """
        if self.loss != "divergence":
            return self
        logits = target.flatten(1)
        enough = _ENOUGH_ENTROPY * log(max(logits.shape[1], 1))
        for temperature in _TEMPERATURES:
            shares = (logits / temperature).log_softmax(dim=1)
            if -float((shares.exp() * shares).sum(dim=1).mean()) >= enough:
                break
        return replace(self, temperature=temperature)

    def cut(self, graph: Graph) -> Graph:
        """A graph, float or integer, up to the compared tensor."""
        return graph if graph.output == self.tensor else graph.with_nodes(graph.nodes, output=self.tensor)

    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar difference of two batches (n, ...) of the compared tensor: integer and float network."""
        return self.losses(output, target).mean()

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The difference of each sample (n,), of which `measure` is the mean."""
        if self.loss == "divergence":
            divergence = functional.kl_div(
                (output.flatten(1) / self.temperature).log_softmax(dim=1),
                (target.flatten(1) / self.temperature).log_softmax(dim=1),
                reduction="none",
                log_target=True,
            )
            return divergence.sum(dim=1) * self.temperature**2
        variance = target.var(dim=0, correction=0).sum()
        squares = (output - target).square().flatten(1).sum(dim=1)
        return torch.div(squares, variance.clamp_min(_SMALLEST_VARIANCE))

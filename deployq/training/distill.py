"""Distillation of the float network into the scales and biases of the integer network.

The codes stay as the quantizer chose them and no labels are used: Adam (2014, 1412.6980) moves the
scale and the bias of every channel so that the outputs agree with the float network's (Hinton et
al., 1503.02531), and the ends of its blocks (`hints`), on augmented calibration samples. Samples that
are never trained on tell, on the integer network itself, whether the result may be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import cos, nan, pi

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployq.arithmetic import FloatArray
from deployq.augmentation import augmented
from deployq.graph import Graph
from deployq.layerwise import IntegerModel, dequantize
from deployq.ops import QuantizedWeights, WeightedOperator
from deployq.random_streams import Purpose, stream
from deployq.training.execution import Execution
from deployq.training.floating import float_network
from deployq.training.hints import Hints
from deployq.training.objective import TuningObjective
from deployq.training.repeatable import repeatable
from deployq.training.settings import FEWEST_TUNED, Indices, Tuned, TuneSettings, split_samples
from deployq.training.simulate import TorchNetwork, quantization_of
from deployq.verify.reference import run_reference

Int8Array = npt.NDArray[np.int8]
Progress = Callable[[str], None]

#: Share of the steps in which the rate rises; after them it falls to zero along a cosine.
_WARM_UP = 0.1
#: A few held-out samples judge better through several augmented copies, up to so many in all.
_JUDGING = 256
#: How often progress is reported.
_REPORTS = 4
#: Samples evaluated together.
_BATCH = 256


def tune(
    graph: Graph,
    network: IntegerModel,
    codes: Int8Array,
    settings: TuneSettings,
    progress: Progress = lambda message: None,
) -> Tuned:
    """Tune scales and biases of an integer network by distillation.

    Repeatable: the same arguments give the same network on one machine.

    Args:
        graph: the float network, of the same nodes.
        network: its integer network.
        codes: int8 inputs (n, ...) of the calibration samples, as the firmware would get them.
        settings: budget and seed.
        progress: called with a line now and then.

    Returns:
        The tuned network, or the given one where tuning made it worse or could not be judged.

    Raises:
        UsageError: the network contains an operator that has no torch form.
    """
    objective = TuningObjective.of(graph, settings.task)
    trained_on, held_out = split_samples(len(codes), settings)
    why = "no passes were asked for" if not settings.passes else ""
    if not any(isinstance(node.op, WeightedOperator) for node in graph.nodes):
        why = "the network has no weights"
    elif not len(held_out):
        why = f"it takes {FEWEST_TUNED} samples, {len(codes)} were given"
    if why:
        return Tuned(network, nan, nan, kept=False, note=f"scales and biases were not tuned: {why}")
    with repeatable():
        shared = settings.granularity == "layer"
        judges = _judging(codes[held_out], settings)
        tuning = _Tuning(graph, network, objective, judges, shared=shared)
        tuning.train(codes[trained_on], settings, progress)
        return _judged(network, tuning, len(held_out))


def _judged(network: IntegerModel, tuning: _Tuning, samples: int) -> Tuned:
    """The tuned network unless it is worse than the given one, both run in integers.

    Args:
        network: the given one.
        tuning: after the training.
        samples: held-out ones, of which the judges are changed copies.
    """
    losses = tuning.real_losses(network)
    before = float(losses.mean())
    name = {"divergence": "KL divergence", "squares": "squared error"}[tuning.objective.loss]
    if tuning.objective.temperature != 1:
        name += f" at temperature {tuning.objective.temperature:g}"
    unchanged = Tuned(network, before, before, kept=False, note="")
    try:
        candidate = tuning.integer_network(network)
    except ValueError as error:
        return replace(unchanged, note=f"tuned scales and biases were not kept: {error}")
    tuned_losses = tuning.real_losses(candidate)
    after = float(tuned_losses.mean())
    note = f"tuning scales and biases took the held-out {name} from {before:.4g} to {after:.4g}"
    if is_worse(losses, tuned_losses, samples):
        return replace(unchanged, note=f"{note}: not kept")
    if after > before:
        note += ", within the error of the measurement"
    return Tuned(candidate, before, after, kept=True, note=note)


def is_worse(before: FloatArray, after: FloatArray, samples: int) -> bool:
    """Whether losses have grown by more than the standard error of their mean difference; true of NaN.

    A hundred samples are few, tuning nearly always helps, and to refuse it by chance costs more than to
    keep it by chance (ResNet-8 at three bits, refused for a difference within the error: a divergence of
    0.0479 in place of 0.0441 on 1,500 other images).

    Args:
        before: losses of the samples and of their changed copies, copy by copy, (copies * samples,).
        after: the same.
        samples: how many there are without copies, which tell less than other samples would: what counts
            is the mean over the copies of each.
    """
    increases = (after - before).reshape(-1, samples).mean(axis=0)
    return not increases.mean() <= increases.std() / np.sqrt(samples)


def _judging(held_out: Int8Array, settings: TuneSettings) -> Int8Array:
    """The held-out samples and, if there are few and they may be augmented, changed copies of them."""
    generator = stream(Purpose.TUNING_JUDGES, settings.seed)
    possible = settings.augmentation.lifelike
    copies = _JUDGING // len(held_out) if possible.changes else 1
    changed = [augmented(held_out, possible, generator) for _ in range(1, copies)]
    return np.concatenate([held_out, *changed])


class _Tuning:
    """A float network, its integer network in torch, and the samples that judge."""

    def __init__(
        self,
        graph: Graph,
        network: IntegerModel,
        objective: TuningObjective,
        held_out: Int8Array,
        *,
        shared: bool,
    ) -> None:
        self._graph = graph
        self._source = quantization_of(network.graph, network.graph.input)
        self._output = quantization_of(network.graph, objective.tensor)
        self._teacher: Execution = float_network(objective.cut(graph))
        self._student = TorchNetwork.of(objective.cut(network.graph), shared=shared)
        self._held_out = held_out
        self._targets = self._taught(held_out)
        self.objective = objective.softened(self._targets)

    def train(self, codes: Int8Array, settings: TuneSettings, progress: Progress) -> None:
        """Move the student's parameters.

        They end where the rate reaches zero. Going back to the best of several checkpoints was worse
        in nearly every measurement: what a tenth of 1,024 samples calls best is an early accident.
        """
        parameters = self._student.parameters()
        optimizer = torch.optim.Adam(parameters, lr=settings.rate, betas=(0.9, 0.99))
        generator = stream(Purpose.TUNING_STEPS, settings.seed)
        hints = self._look(codes[: settings.batch], settings.hints)
        batches = list(_batches(len(codes), settings, generator))
        every = -(-len(batches) // _REPORTS)
        for step, rows in enumerate(batches):
            batch = augmented(codes[rows], settings.augmentation, generator)
            loss = self._loss(batch, hints)
            optimizer.param_groups[0]["lr"] = settings.rate * _rate(step, len(batches))
            for value, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                value.grad = gradient
            optimizer.step()
            if (step + 1) % every == 0 or step + 1 == len(batches):
                difference = self.simulated_difference()
                progress(f"tune: step {step + 1} of {len(batches)}, held-out difference {difference:.4g}")

    def integer_network(self, network: IntegerModel) -> IntegerModel:
        """The network with the student's scales and biases.

        Raises:
            ValueError: they do not fit the integer arithmetic.
        """
        if not all(layer.is_plausible for layer in self._student.tunables.values()):
            raise ValueError("the rate is too high, tuning diverged")
        floats = {node.name: node.op for node in self._graph.nodes}
        nodes = []
        for node in network.graph.nodes:
            operator, layer = floats[node.name], self._student.tunables.get(node.name)
            if layer is not None and isinstance(operator, WeightedOperator):
                old = layer.accumulation.weights
                weights = QuantizedWeights(old.levels, layer.scales, layer.bias, old.alphabet)
                node = replace(node, op=operator.quantized(weights, layer.source, layer.output))
            nodes.append(node)
        return replace(network, graph=replace(network.graph, nodes=tuple(nodes)))

    def real_losses(self, network: IntegerModel) -> FloatArray:
        """The objective of an integer network on each of the held-out samples (n,)."""
        outputs = run_reference(self.objective.cut(network.graph), self._held_out)
        real = torch.from_numpy(dequantize(outputs, self._output))
        return np.asarray(self.objective.losses(real, self._targets).numpy(), dtype=np.float64)

    def simulated_difference(self) -> float:
        """The objective of the student on the held-out samples."""
        with torch.no_grad():
            parts = [self._student.run(torch.from_numpy(part)) for part in _parts(self._held_out)]
        return float(self.objective.measure(torch.cat(parts), self._targets))

    def _taught(self, codes: Int8Array) -> Tensor:
        """Outputs of the float network."""
        with torch.no_grad():
            return torch.cat(
                [
                    self._teacher.run(torch.from_numpy(dequantize(part, self._source)))
                    for part in _parts(codes)
                ]
            )

    def _loss(self, batch: Int8Array, hints: Hints) -> Tensor:
        """What the gradient is taken of, for one batch."""
        with torch.no_grad():
            real = torch.from_numpy(dequantize(batch, self._source))
            target, wanted = self._teacher.run_tapped(real, hints.weights)
        output, given = self._student.run_tapped(torch.from_numpy(batch), hints.weights)
        return self.objective.measure(output, target) + hints.measure(given, wanted)

    def _look(self, codes: Int8Array, weight: float) -> Hints:
        """Take the units of biases and hints from what the float network does on a few samples."""
        graph = self._student.execution.graph
        places = Hints.tensors(graph) if weight else ()
        values: dict[str, Tensor] = {}
        with torch.no_grad():
            for node, output in self._teacher.run_nodes(torch.from_numpy(dequantize(codes, self._source))):
                layer = self._student.tunables.get(node.name)
                if layer is not None:
                    layer.unit = float(output.std(correction=0)) or layer.output.scale
                if node.output in places:
                    values[node.output] = output
        return Hints.of(graph, values, weight)


def _parts(codes: Int8Array) -> Iterator[Int8Array]:
    return (codes[first : first + _BATCH] for first in range(0, len(codes), _BATCH))


def _batches(count: int, settings: TuneSettings, generator: np.random.Generator) -> Iterator[Indices]:
    """Rows of every step: each pass in another order, all batches full."""
    order = np.concatenate([generator.permutation(count) for _ in range(settings.passes)])
    size = min(settings.batch, count)
    return (order[first : first + size] for first in range(0, len(order) - size + 1, size))


def _rate(step: int, steps: int) -> float:
    """Share of the peak rate: a linear rise, then a cosine down to zero."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return (1 + cos(pi * (step - rise) / max(1, steps - rise))) / 2

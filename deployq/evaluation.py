"""What a quantized network is measured on: labels, or the float network's own answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.accuracy import integer_accuracy
from deployq.config import BuildConfig
from deployq.data import Labels, Samples, as_array, checked_labels, load_labelled, samples_of_array
from deployq.errors import UsageError
from deployq.graph import Graph, run_graph
from deployq.layerwise import dequantize
from deployq.report.quantization import ACCURACY, AGREEMENT, EXPLAINED
from deployq.steps import Prepared
from deployq.task import is_classifier
from deployq.threads import single_threaded

Array = npt.NDArray[Any]

_BATCH = 64


def labelled_samples(
    evaluation: str | tuple[Array, Array], prepared: Prepared, config: BuildConfig
) -> tuple[Samples, Labels]:
    """Labelled samples in the form `prepared.graph` takes.

    Args:
        evaluation: data specification, or arrays of stored values and of class numbers.
        prepared: the float network.
        config: resizing of images.

    Raises:
        UsageError: the data do not fit the network or the calibration samples.
    """
    shape = prepared.graph.tensors[prepared.graph.input].shape
    if isinstance(evaluation, str):
        samples, labels = load_labelled(evaluation, prepared.preprocessing, shape, resize=config.resize)
    elif isinstance(evaluation, (tuple, list)) and len(evaluation) == 2:
        samples = samples_of_array(evaluation[0], prepared.preprocessing, shape)
        where = "the array of labels"
        labels = checked_labels(as_array(evaluation[1], where), len(samples), where)
    else:
        raise UsageError(
            "the evaluation data are not a pair",
            why=f"found a {type(evaluation).__name__}",
            hint="(samples, class numbers), or a data specification as text",
        )
    classes = prepared.graph.tensors[prepared.graph.output].size
    if labels.max(initial=0) >= classes:
        raise UsageError(
            f"the label {labels.max()} of a network with {classes} outputs",
            where="--eval",
            hint="labels are class numbers from 0",
        )
    if samples.is_pixels != prepared.samples.is_pixels:
        raise UsageError(
            "calibration and evaluation data differ in type",
            why="one of them is uint8, the other is not",
            hint="store both the same way, so that they are preprocessed alike",
        )
    return samples, labels


@dataclass(frozen=True)
class Evaluation:
    """Samples with what the network should answer, and how an answer is judged.

    Attributes:
        kind: of the score: one of the kinds of `deployq.report.quantization.Measure`.
        samples: never used to quantize, unless there are too few.
        answers: class numbers (N,), or real outputs (N, ...) where the score is the explained variance.
        float_accuracy: percent of samples the float network answers so; None where the answers are its own.
    """

    kind: str
    samples: Samples
    answers: Array
    float_accuracy: float | None

    @staticmethod
    def of_labels(graph: Graph, samples: Samples, labels: Labels) -> Evaluation:
        """Against labels: the score is the accuracy."""
        right = np.count_nonzero(top1(graph, samples) == labels)
        return Evaluation(ACCURACY, samples, labels, 100.0 * int(right) / len(samples))

    @staticmethod
    def of_answers(graph: Graph, samples: Samples, task: str) -> Evaluation:
        """Without labels, against the float network itself: what fits the task, see `deployq.task`.

        A classifier's score is how often both have the same largest output. Any other network's is the
        share of the variance of the float outputs that the integer network explains: 100 % less the
        squared error over the squared deviation from the mean.
        """
        if is_classifier(graph, task):
            return Evaluation(AGREEMENT, samples, top1(graph, samples), None)
        return Evaluation(EXPLAINED, samples, real_outputs(graph, samples), None)

    def score(self, graph: Graph) -> float:
        """Score of an integer graph in percent."""
        if self.kind != EXPLAINED:
            return integer_accuracy(graph, self.samples, self.answers)
        return explained_variance(integer_outputs(graph, self.samples), self.answers)


def explained_variance(outputs: Array, wanted: Array) -> float:
    """Percent of the variance of real outputs (N, ...) that others of the same shape explain."""
    wanted = wanted.astype(np.float64)
    variance = float(np.sum((wanted - wanted.mean(axis=0)) ** 2))
    error = float(np.sum((wanted - outputs) ** 2))
    if variance == 0:
        return 100.0 if error == 0 else 0.0
    return 100.0 * (1 - error / variance)


@single_threaded
def real_outputs(graph: Graph, samples: Samples) -> Array:
    """Outputs (N, ...) of a float graph."""
    return np.concatenate([run_graph(graph, samples.real(part)) for part in _parts(len(samples))])


@single_threaded
def integer_outputs(graph: Graph, samples: Samples) -> Array:
    """Outputs (N, ...) of an integer graph as real values, by the Python reference."""
    source, target = (graph.tensors[name].quantization for name in (graph.input, graph.output))
    assert source is not None and target is not None
    codes = [run_graph(graph, samples.quantized(source, part)) for part in _parts(len(samples))]
    return dequantize(np.concatenate(codes), target)


def top1(graph: Graph, samples: Samples) -> Labels:
    """Index (N,) of the largest output of a float graph for each sample; the first one on ties."""
    outputs = real_outputs(graph, samples)
    return np.asarray(outputs.reshape(len(outputs), -1).argmax(axis=1), dtype=np.int64)


def _parts(count: int) -> list[slice]:
    return [slice(first, first + _BATCH) for first in range(0, count, _BATCH)]

"""What the top-1 of a quantized network is measured on: labels, or the float network's own answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.accuracy import integer_accuracy
from deployq.config import BuildConfig
from deployq.data import Labels, Samples, checked_labels, load_labelled, samples_of_array
from deployq.errors import UsageError
from deployq.graph import Graph, run_graph
from deployq.steps import Prepared
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
    else:
        samples = samples_of_array(evaluation[0], prepared.preprocessing, shape)
        labels = checked_labels(np.asarray(evaluation[1]), len(samples), "the array of labels")
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
    """Samples with the answers that count as right, and what the float network makes of them.

    Attributes:
        samples: never used to quantize, unless there are too few.
        answers: class numbers (N,).
        float_accuracy: percent of samples the float network answers so; None where the answers are its own.
    """

    samples: Samples
    answers: Labels
    float_accuracy: float | None

    @staticmethod
    def of_labels(graph: Graph, samples: Samples, labels: Labels) -> Evaluation:
        """Against labels: the score is the accuracy."""
        right = np.count_nonzero(top1(graph, samples) == labels)
        return Evaluation(samples, labels, 100.0 * int(right) / len(samples))

    @staticmethod
    def of_answers(graph: Graph, samples: Samples) -> Evaluation:
        """Without labels: the score is the agreement with the float network."""
        return Evaluation(samples, top1(graph, samples), None)

    def score(self, graph: Graph) -> float:
        """Percent of the samples that an integer graph answers rightly."""
        return integer_accuracy(graph, self.samples, self.answers)


@single_threaded
def top1(graph: Graph, samples: Samples) -> Labels:
    """Index (N,) of the largest output of a float graph for each sample; the first one on ties."""
    parts = [slice(first, first + _BATCH) for first in range(0, len(samples), _BATCH)]
    outputs = [run_graph(graph, samples.real(part)) for part in parts]
    largest = [output.reshape(len(output), -1).argmax(axis=1) for output in outputs]
    return np.concatenate(largest).astype(np.int64)

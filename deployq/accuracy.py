"""Top-1 accuracy of the float and of the integer network."""

from __future__ import annotations

import numpy as np

from deployq.data import Samples
from deployq.graph import Graph, Quantization, run_graph
from deployq.ops.base import Array
from deployq.threads import single_threaded

_BATCH = 64


@single_threaded
def float_accuracy(graph: Graph, samples: Samples, labels: Array) -> float:
    """Percent of samples whose largest output is the label; first index on ties."""
    correct = 0
    for first in range(0, len(samples), _BATCH):
        part = slice(first, first + _BATCH)
        outputs = run_graph(graph, samples.real(part))
        correct += _correct(outputs, labels[part])
    return 100.0 * correct / len(samples)


@single_threaded
def integer_accuracy(graph: Graph, samples: Samples, labels: Array) -> float:
    """The same for an integer graph on int8 inputs, by the Python reference."""
    quantization = graph.tensors[graph.input].quantization
    assert isinstance(quantization, Quantization)
    correct = 0
    for first in range(0, len(samples), _BATCH):
        part = slice(first, first + _BATCH)
        outputs = run_graph(graph, samples.quantized(quantization, part))
        correct += _correct(outputs, labels[part])
    return 100.0 * correct / len(samples)


def _correct(outputs: Array, labels: Array) -> int:
    return int(np.count_nonzero(outputs.reshape(len(outputs), -1).argmax(axis=1) == labels))

"""The Python reference: the integer operators themselves, run in batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deployq.graph import Graph, run_graph
from deployq.graph.run import run_nodes
from deployq.threads import single_threaded

Int8Array = npt.NDArray[np.int8]

_BATCH = 64


@single_threaded
def run_reference(graph: Graph, samples: Int8Array) -> Int8Array:
    """Outputs (n, *shape) of an integer graph for int8 samples (n, *shape)."""
    batches = [run_graph(graph, samples[first : first + _BATCH]) for first in range(0, len(samples), _BATCH)]
    return np.concatenate(batches)


@single_threaded
def run_reference_layers(graph: Graph, samples: Int8Array) -> list[Int8Array]:
    """Output of every node, in node order, for a few samples."""
    return [value for _, value in run_nodes(graph, samples)]

"""What each layer at each width costs in accuracy, measured on the network without labels.

The sensitivity of (layer, width) is the increase of the divergence from the float network (KL of a
classifier's outputs) when that layer alone goes to that width, all others staying at a given
assignment. Statistics of a layer are taken once for all its widths, and only what depends on the layer
is run again. From four bits up the increases are of the size of the measurement's noise and follow from
the narrower ones by a law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deployq.allocation.costs import Assignment, FlashCosts
from deployq.allocation.workbench import Solved, Workbench
from deployq.alphabet import Alphabet
from deployq.ops.base import Array

#: Chunks of held-out samples a sensitivity is measured on, at most about twice as many; the errors of
#: estimate of two options largely cancel, both being measured on the same samples.
SENSITIVITY_CHUNKS = 6

#: Options of at most as many levels are measured, those of more are derived.
MEASURED_LEVELS = 8


@dataclass(frozen=True)
class Measured:
    """Sensitivities about an assignment.

    Attributes:
        centre: the assignment.
        divergence: of the network quantized at it.
        increases: of the divergence, by node and name of the alphabet; 0 at the assignment itself.
    """

    centre: Assignment
    divergence: float
    increases: Mapping[str, Mapping[str, float]]


def widest(costs: FlashCosts) -> Assignment:
    """Every layer at its most levels: the usual centre of the first measurement."""
    return {
        name: max(layer.options.values(), key=lambda option: option.alphabet.levels).alphabet
        for name, layer in costs.layers.items()
    }


def measure(bench: Workbench, costs: FlashCosts, centre: Assignment) -> Measured:
    """Measure the narrow options of every layer with the other layers at `centre`; derive the wide ones.

    The layers after the changed one keep the codes they have at `centre`.

    Args:
        bench: network and data.
        costs: tells the options of each layer.
        centre: alphabet of every weighted node.
    """
    options = {
        name: [option.alphabet for option in layer.options.values()] for name, layer in costs.layers.items()
    }
    narrow = {
        name: [item for item in letters if item.levels <= MEASURED_LEVELS]
        for name, letters in options.items()
    }
    solved = bench.solve(centre, narrow)
    changes = [(node, name) for node, found in solved.others.items() for name in found]
    outputs: list[list[Array]] = [[] for _ in changes]
    base: list[Array] = []
    every = max(1, len(bench.held_out) // SENSITIVITY_CHUNKS)
    for chunk in bench.held_out[::every]:
        values = {bench.graph.input: chunk}
        base.append(bench.simulation.run(solved.operators, values, set()))
        for collected, (node, name) in zip(outputs, changes, strict=True):
            collected.append(_changed(bench, solved, node, name, values))
    divergence = bench.reference.divergence(base, every)
    measured = {node: {letters.name: 0.0} for node, letters in centre.items()}
    for collected, (node, name) in zip(outputs, changes, strict=True):
        measured[node][name] = bench.reference.divergence(collected, every) - divergence
    increases = {node: with_wide_options(options[node], found) for node, found in measured.items()}
    return Measured(centre, divergence, increases)


def _changed(bench: Workbench, solved: Solved, node: str, name: str, values: Mapping[str, Array]) -> Array:
    """Output of the network with one node at another alphabet; `values` are those without the change."""
    operators = {**solved.operators, node: solved.others[node][name]}
    output = next(item.output for item in bench.graph.nodes if item.name == node)
    return bench.simulation.run(operators, dict(values), {output})


def with_wide_options(options: Sequence[Alphabet], measured: Mapping[str, float]) -> dict[str, float]:
    """Increases of all options of a layer from those of some.

    The squared step of the alphabet, hence the squared error of the layer, is proportional to
    levels^-2, and so is the small divergence it causes: linear between and beyond measured options.

    Args:
        options: of the layer.
        measured: increases by name of the alphabet; of one option at least.
    """
    known = sorted((item.levels**-2, measured[item.name]) for item in options if item.name in measured)
    steps, values = (list(column) for column in zip(*known, strict=True))
    slope = 0.0
    if len(known) > 1 and steps[1] > steps[0]:
        slope = max((values[1] - values[0]) / (steps[1] - steps[0]), 0.0)
    result = {}
    for letters in options:
        step = letters.levels**-2
        derived = float(np.interp(step, steps, values)) + slope * min(step - steps[0], 0.0)
        result[letters.name] = measured.get(letters.name, derived)
    return result

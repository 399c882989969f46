"""Quantize a network at any assignment of widths, again and again, and compare it with the float one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from deployq.activations import ActivationStore, activation_store
from deployq.allocation.costs import Assignment
from deployq.allocation.divergence import Reference, measure_of
from deployq.allocation.simulation import RoundedNetwork, int8_codes, quantized_operator, run_rounded
from deployq.allocation.trial import known_quantizations
from deployq.alphabet import Alphabet
from deployq.graph import Graph, Node, Operator, Quantization, last_uses
from deployq.layerwise import WeightSettings, dequantize, layer_accumulator, sampled_positions, solve_layer
from deployq.ops import FloatOperator, WeightedOperator
from deployq.ops.base import Array
from deployq.quantizers.inputs import InputStatistics
from deployq.task import scores_tensor

#: A chunk of samples: float32 input and the same input in int8.
Batch = tuple[Array, Array]

#: Names of the alphabets of the weighted nodes up to some node, in the order of execution.
Prefix = tuple[str, ...]

#: Bytes up to which the statistics of a layer are kept for the next assignment.
_KEPT_STATISTICS = 3 * 2**26


@dataclass(frozen=True)
class Solved:
    """Quantized operators of an assignment.

    Attributes:
        operators: of every weighted node at its assigned alphabet.
        others: of the same nodes at other alphabets, by node and name of the alphabet, all nodes before
            being at their assigned ones.
    """

    operators: Mapping[str, FloatOperator]
    others: Mapping[str, Mapping[str, FloatOperator]] = field(default_factory=dict)


class Workbench:
    """A float network with its data; made by `workbench`.

    Args:
        graph: simplified float graph.
        calibrated: quantization of every tensor.
        settings: how weights are quantized; its alphabets are not used.
        store: keeps the float activations of the calibration samples.
        calibration: what layers are quantized on.
        held_out: what networks are compared on.
    """

    def __init__(
        self,
        graph: Graph,
        calibrated: Mapping[str, Quantization],
        settings: WeightSettings,
        store: ActivationStore,
        calibration: Iterable[Batch],
        held_out: Iterable[Batch],
    ) -> None:
        self.graph, self.settings = graph, settings
        self.known = known_quantizations(graph, calibrated)
        self.simulation = RoundedNetwork(graph, self.known, scores_tensor(graph))
        self._store, self._uses = store, last_uses(graph)
        self._operators: dict[tuple[str, Prefix, str], FloatOperator] = {}
        self._statistics: dict[str, tuple[Prefix, InputStatistics]] = {}
        self._present: dict[str, Prefix] = {}
        self._behind: list[tuple[Node, Operator, Prefix]] = []
        self._chunks, self._samples = self._fill(calibration)
        self.held_out, outputs = [], []
        for analog, codes in held_out:
            self.held_out.append(dequantize(codes, self.known[graph.input]))
            outputs.append(self.float_output(analog))
        self.reference = Reference(measure_of(graph, settings.task), tuple(outputs))

    def solve(self, assignment: Assignment, others: Mapping[str, Sequence[Alphabet]] | None = None) -> Solved:
        """Quantize layer by layer, each on the output of the quantized layers before it.

        What depends on the same widths of the layers before as in earlier calls is not done again.

        Args:
            assignment: alphabet of every weighted node.
            others: alphabets at which nodes are quantized as well, on the same statistics.
        """
        operators: dict[str, FloatOperator] = {}
        found: dict[str, dict[str, FloatOperator]] = {}
        before: Prefix = ()
        self._behind.clear()
        for index, node in enumerate(self.graph.nodes):
            if isinstance(node.op, WeightedOperator):
                letters = assignment[node.name]
                operators[node.name] = self._quantized(node, index, before, letters)
                found[node.name] = {
                    other.name: self._quantized(node, index, before, other)
                    for other in (others or {}).get(node.name, ())
                    if other != letters
                }
                before = (*before, letters.name)
                if node.name in self._statistics and self._large(node.name):
                    del self._statistics[node.name]
            self._behind.append((node, operators.get(node.name, node.op), before))
        return Solved(operators, found)

    def outputs(self, operators: Mapping[str, FloatOperator]) -> list[Array]:
        """Outputs of a quantized network on the held-out samples, chunk by chunk."""
        return [self.run(operators, chunk) for chunk in self.held_out]

    def run(self, operators: Mapping[str, FloatOperator], batch: Array) -> Array:
        """The measured output of a quantized network, from the real values of its int8 input."""
        return self.simulation.run(operators, {self.graph.input: batch}, set())

    def _quantized(self, node: Node, index: int, before: Prefix, letters: Alphabet) -> FloatOperator:
        """The operator of a node at an alphabet, the weighted nodes before it being at `before`."""
        key = (node.name, before, letters.name)
        if key not in self._operators:
            seed = (self.settings.seed, index)
            if self._statistics.get(node.name, (None,))[0] != before:
                self._catch_up()
                self._statistics[node.name] = (before, self._take_statistics(node, seed))
            settings = replace(self.settings, layers={node.name: letters})
            weights, _ = solve_layer(node, self._statistics[node.name][1], settings, seed)
            assert isinstance(node.op, WeightedOperator)
            self._operators[key] = quantized_operator(node.op, weights)
        return self._operators[key]

    def _large(self, name: str) -> bool:
        return self._statistics[name][1].nbytes > _KEPT_STATISTICS

    def _fill(self, calibration: Iterable[Batch]) -> tuple[int, int]:
        """Run the float network and keep the inputs of its weighted layers; numbers of chunks and samples."""
        kept = {node.inputs[0] for node in self.graph.nodes if isinstance(node.op, WeightedOperator)}
        count = samples = 0
        for analog, codes in calibration:
            self._store.put(f"int8 {self.graph.input}", count, codes)
            values = {self.graph.input: analog}
            for index, node in enumerate(self.graph.nodes):
                values[node.output] = node.op.run([values[name] for name in node.inputs])
                for name in {*node.inputs, node.output} & values.keys():
                    if self._uses[name] <= index:
                        value = values.pop(name)
                        if name in kept:
                            self._store.put(f"float {name}", count, value)
            count += 1
            samples += len(analog)
        return count, samples

    def float_output(self, analog: Array) -> Array:
        """The measured output of the float network."""
        values = {self.graph.input: analog}
        for index, node in enumerate(self.graph.nodes):
            values[node.output] = node.op.run([values[name] for name in node.inputs])
            if node.output == self.simulation.until:
                break
            for name in {*node.inputs, node.output} & values.keys():
                if self._uses[name] <= index:
                    del values[name]
        return values[self.simulation.until]

    def _rounded(self, tensor: str, chunk: int) -> Array:
        """Values of a tensor in the network quantized last."""
        return dequantize(self._store.get(f"int8 {tensor}", chunk), self.known[tensor])

    def _take_statistics(self, node: Node, seed: tuple[int, ...]) -> InputStatistics:
        """As `quantize_graph` takes them, but for the compensation between branches."""
        operator = node.op
        assert isinstance(operator, WeightedOperator)
        shape = self.graph.tensors[node.inputs[0]].shape
        accumulator = layer_accumulator(operator, shape, self._samples, self.settings)
        for chunk in range(self._chunks):
            analog = self._store.get(f"float {node.inputs[0]}", chunk)
            rounded = self._rounded(node.inputs[0], chunk)
            positions = sampled_positions(operator, analog.shape[1:], (*seed, chunk))
            analog_rows = operator.patches(analog, positions)
            same = np.array_equal(analog, rounded)
            rounded_rows = analog_rows if same else operator.patches(rounded, positions)
            accumulator.update(rounded_rows, analog_rows)
        return accumulator.finish()

    def _catch_up(self) -> None:
        """Compute, on the calibration samples, the outputs of the nodes passed since the last time.

        Only those that are not there from an earlier call.
        """
        for node, operator, before in self._behind:
            if self._present.get(node.output) == before:
                continue
            assert isinstance(operator, FloatOperator)
            quantization = self.known[node.output]
            self._store.drop(f"int8 {node.output}")
            for chunk in range(self._chunks):
                inputs = [self._rounded(name, chunk) for name in node.inputs]
                output = run_rounded(node, operator, inputs, quantization)
                self._store.put(f"int8 {node.output}", chunk, int8_codes(output, quantization))
            self._present[node.output] = before
        self._behind.clear()


@contextmanager
def workbench(
    graph: Graph,
    calibrated: Mapping[str, Quantization],
    settings: WeightSettings,
    calibration: Iterable[Batch],
    held_out: Iterable[Batch],
) -> Iterator[Workbench]:
    """A workbench whose stored activations are removed at the end."""
    with activation_store() as store:
        yield Workbench(graph, calibrated, settings, store, calibration, held_out)

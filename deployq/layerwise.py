"""Float graph to integer graph: layer by layer, each on the output of the quantized layers before it.

The quantized path X~ that the solvers of `deployq.quantizers` see is the integer network as it
will be deployed, int8 activations included, not a simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.activations import ActivationStore, activation_store
from deployq.alphabet import Alphabet, alphabet
from deployq.arithmetic import FloatArray, round_half_up
from deployq.errors import ModelError, UsageError
from deployq.graph import Graph, Node, Quantization, last_uses
from deployq.ops import IntegerOperator, QuantizedWeights, WeightedOperator
from deployq.quantizers.layer import LayerSolution, quantize_layer
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.registry import Note
from deployq.quantizers.statistics import LayerStatistics, StatisticsAccumulator
from deployq.threads import single_threaded

Array = npt.NDArray[Any]
Progress = Callable[[str], None]

#: Output positions per sample that enter the statistics of a convolution, drawn at random.
POSITIONS_PER_SAMPLE = 64


@dataclass(frozen=True)
class WeightSettings:
    """How weights are quantized.

    Attributes:
        alphabet: alphabet of every layer that neither fixes its own nor stands in `layers`.
        method: name of a quantizer.
        granularity: "channel" or "layer": what shares a scale.
        seed: of the position sampling and of stochastic methods.
        options: of the quantizer; its seed is replaced by one made of `seed` and the layer.
        refine: rounds of coordinate descent after the quantizer.
        layers: alphabets of single layers, by node name.
    """

    alphabet: Alphabet
    method: str = "gpfq"
    granularity: str = "channel"
    seed: int = 0
    options: SolverOptions = field(default_factory=SolverOptions)
    refine: int = 0
    layers: Mapping[str, Alphabet] = field(default_factory=dict)

    def alphabet_of(self, node: Node) -> Alphabet:
        """The alphabet of a weighted node."""
        fixed = getattr(node.op, "fixed_alphabet", "")
        return alphabet(fixed) if fixed else self.layers.get(node.name, self.alphabet)


@dataclass(frozen=True)
class IntegerModel:
    """A quantized network.

    Attributes:
        graph: integer graph; every tensor has a quantization.
        relative_errors: ||X W - X~ Q|| / ||X W|| of each weighted node, by node name.
        source_sha256: hexadecimal digest of the model it came from, "" if unknown.
        takes_pixels: the int8 input is pixel - 128.
        notes: what the user should know of the quantization, one sentence each.
    """

    graph: Graph
    relative_errors: Mapping[str, float]
    source_sha256: str = ""
    takes_pixels: bool = False
    notes: tuple[str, ...] = ()


def dequantize(values: Array, quantization: Quantization) -> Array:
    """int8 to float32 real values."""
    return (values.astype(np.float32) - np.float32(quantization.zero_point)) * np.float32(quantization.scale)


def quantize_values(values: Array, quantization: Quantization) -> npt.NDArray[np.int8]:
    """Real values to int8, half up, saturated; `<m>_quantize_input` in C does so up to float32 rounding."""
    scaled = round_half_up(values.astype(np.float64) / quantization.scale) + quantization.zero_point
    return np.clip(scaled, -128, 127).astype(np.int8)


@single_threaded
def quantize_graph(
    graph: Graph,
    quantizations: Mapping[str, Quantization],
    batches: Iterable[tuple[Array, Array]],
    settings: WeightSettings,
    progress: Progress = lambda message: None,
) -> IntegerModel:
    """Quantize a simplified float graph.

    Args:
        graph: float graph.
        quantizations: calibrated quantization of every tensor.
        batches: calibration batches as pairs (float32 input, the same input in int8).
        settings: weight quantization.
        progress: called with a line per layer.

    Raises:
        ModelError: a layer cannot be represented in the integer arithmetic.
    """
    known = {graph.input: quantizations[graph.input]}
    uses = last_uses(graph)
    integer_nodes: list[Node] = []
    errors: dict[str, float] = {}
    notes: list[str] = []
    with activation_store() as store:
        chunks = _fill(store, graph.input, batches)
        for index, node in enumerate(graph.nodes):
            sources = [known[name] for name in node.inputs]
            operator = node.op
            output = operator.output_quantization(sources, quantizations[node.output])  # type: ignore[attr-defined]
            weights = None
            if isinstance(operator, WeightedOperator):
                progress(f"quantize {node.name}")
                statistics = _statistics(store, node, sources[0], chunks, (settings.seed, index))
                weights, errors[node.name] = solve_layer(
                    node, statistics, settings, (settings.seed, index), notes.append
                )
            integer = _integer(node, weights, sources, output)
            known[node.output] = output
            integer_nodes.append(replace(node, op=integer))
            _advance(store, node, integer, chunks)
            for name in {*node.inputs, node.output}:
                if uses[name] <= index:
                    store.drop(f"float {name}")
                    store.drop(f"int8 {name}")
    tensors = {name: replace(tensor, quantization=known[name]) for name, tensor in graph.tensors.items()}
    integer_graph = Graph(graph.name, graph.input, graph.output, tuple(integer_nodes), tensors)
    return IntegerModel(integer_graph, errors, notes=tuple(dict.fromkeys(notes)))


def _integer(
    node: Node, weights: QuantizedWeights | None, sources: Sequence[Quantization], output: Quantization
) -> IntegerOperator:
    """The integer form of a node; what cannot be represented is the user's to know."""
    operator = node.op
    try:
        if weights is None:
            return operator.integer(sources, output)  # type: ignore[attr-defined, no-any-return]
        return operator.quantized(weights, sources[0], output)  # type: ignore[attr-defined, no-any-return]
    except ValueError as error:
        raise ModelError(
            f"layer {node.name!r} does not fit the integer arithmetic",
            where=node.source,
            why=str(error),
            hint="more bits, another alphabet or --granularity channel change its range",
        ) from error


def _fill(store: ActivationStore, tensor: str, batches: Iterable[tuple[Array, Array]]) -> int:
    count = 0
    for analog, quantized in batches:
        store.put(f"float {tensor}", count, analog)
        store.put(f"int8 {tensor}", count, quantized)
        count += 1
    return count


def _advance(store: ActivationStore, node: Node, integer: IntegerOperator, chunks: int) -> None:
    for chunk in range(chunks):
        analog = node.op.run([store.get(f"float {name}", chunk) for name in node.inputs])
        quantized = integer.run([store.get(f"int8 {name}", chunk) for name in node.inputs])
        store.put(f"float {node.output}", chunk, analog)
        store.put(f"int8 {node.output}", chunk, quantized)


def _statistics(
    store: ActivationStore, node: Node, source: Quantization, chunks: int, seed: Sequence[int]
) -> LayerStatistics:
    operator = node.op
    assert isinstance(operator, WeightedOperator)
    accumulator: StatisticsAccumulator | None = None
    for chunk in range(chunks):
        analog = store.get(f"float {node.inputs[0]}", chunk)
        quantized = dequantize(store.get(f"int8 {node.inputs[0]}", chunk), source)
        total = operator.positions(analog.shape[1:])
        positions = None
        if total > POSITIONS_PER_SAMPLE:
            generator = np.random.default_rng([*seed, chunk])
            positions = np.sort(generator.choice(total, POSITIONS_PER_SAMPLE, replace=False))
        analog_rows = operator.patches(analog, positions)
        same = np.array_equal(analog, quantized)
        quantized_rows = analog_rows if same else operator.patches(quantized, positions)
        if accumulator is None:
            accumulator = StatisticsAccumulator(operator.groups, analog_rows.shape[2])
        accumulator.update(quantized_rows, analog_rows)
    if accumulator is None:
        raise UsageError("there are no calibration samples", where="--calib")
    return accumulator.finish()


def solve_layer(
    node: Node,
    statistics: LayerStatistics,
    settings: WeightSettings,
    seed: tuple[int, ...] = (0,),
    note: Note = lambda message: None,
) -> tuple[QuantizedWeights, float]:
    """Quantize the weights of one node.

    Args:
        node: with a weighted float operator.
        statistics: of its inputs, centred.
        settings: weight quantization.
        seed: of a stochastic quantizer in this layer.
        note: called with what the user should know.

    Returns:
        The weights and their relative error |X W - X~ Q| / |X W|.
    """
    operator = node.op
    assert isinstance(operator, WeightedOperator)
    chosen = settings.alphabet_of(node)
    weight: FloatArray = operator.weight.reshape(operator.weight.shape[0], -1).astype(np.float64)
    solution: LayerSolution = quantize_layer(
        weight,
        operator.bias,
        statistics,
        chosen,
        settings.method,
        settings.granularity,
        replace(settings.options, seed=seed),
        settings.refine,
        lambda message: note(f"layer {node.name!r}: {message}"),
    )
    weights = QuantizedWeights(solution.levels, solution.scales, solution.bias, chosen)
    return weights, float(solution.relative_error)

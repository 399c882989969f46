"""Float graph to integer graph: layer by layer, each on the output of the quantized layers before it.

The quantized path X~ that the solvers of `deployq.quantizers` see is the integer network as it
will be deployed, int8 activations included, not a simulation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.activations import ActivationStore, activation_store
from deployq.alphabet import Alphabet, alphabet
from deployq.arithmetic import FloatArray, round_half_up
from deployq.errors import ModelError
from deployq.graph import Graph, Node, Quantization, Shape, last_uses
from deployq.ops import IntegerOperator, QuantizedWeights, WeightedOperator
from deployq.ops.add import Add
from deployq.pareto import ParetoTable
from deployq.quantizers.forms import Accumulator, statistics_accumulator
from deployq.quantizers.inputs import InputStatistics
from deployq.quantizers.layer import quantize_layer
from deployq.quantizers.options import SolverOptions
from deployq.quantizers.registry import Note
from deployq.quantizers.residual import ResidualAccumulator
from deployq.quantizers.statistics import LayerStatistics, StatisticsAccumulator
from deployq.random_streams import Purpose, stream
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
        task: what the network is for, where networks are compared; see `deployq.task`.
        compensate: a layer whose output is added to another branch makes up for that branch's error.
    """

    alphabet: Alphabet
    method: str = "gpfq"
    granularity: str = "channel"
    seed: int = 0
    options: SolverOptions = field(default_factory=SolverOptions)
    refine: int = 0
    layers: Mapping[str, Alphabet] = field(default_factory=dict)
    task: str = "auto"
    compensate: bool = False

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
        warnings: what makes the result doubtful, one sentence each.
        pareto: what other widths would have brought, where deployq chose them.
        solver_seconds: time the quantizer took, without calibration, statistics and tuning.
    """

    graph: Graph
    relative_errors: Mapping[str, float]
    source_sha256: str = ""
    takes_pixels: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    pareto: ParetoTable | None = None
    solver_seconds: float = field(default=0.0, compare=False)

    @property
    def sparsity(self) -> Mapping[str, float]:
        """Share of weights whose level is zero, 0 to 1, by name of the weighted node."""
        return {
            node.name: float(np.mean(node.op.accumulation.weights.levels == 0))
            for node in self.graph.nodes
            if hasattr(node.op, "accumulation")
        }


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
    order = _solving_order(graph) if settings.compensate else graph.nodes
    uses = last_uses(replace(graph, nodes=order))
    integer_nodes: dict[str, Node] = {}
    errors: dict[str, float] = {}
    notes: list[str] = []
    seconds = 0.0
    with activation_store() as store:
        sizes = _fill(store, graph.input, batches)
        samples = _Samples(store, known, sizes)
        for index, node in enumerate(order):
            sources = [known[name] for name in node.inputs]
            operator = node.op
            output = operator.output_quantization(sources, quantizations[node.output])  # type: ignore[attr-defined]
            weights = None
            if isinstance(operator, WeightedOperator):
                progress(f"quantize {node.name}")
                branch = _other_branch(graph, node, known) if settings.compensate else None
                shape = graph.tensors[node.inputs[0]].shape
                statistics = _statistics(samples, node, shape, settings, (settings.seed, index), branch)
                started = time.perf_counter()
                weights, errors[node.name] = solve_layer(
                    node, statistics, settings, (settings.seed, index), notes.append
                )
                seconds += time.perf_counter() - started
            integer = _integer(node, weights, sources, output)
            known[node.output] = output
            integer_nodes[node.name] = replace(node, op=integer)
            _advance(store, node, integer, len(sizes))
            for name in {*node.inputs, node.output}:
                if uses[name] <= index:
                    store.drop(f"float {name}")
                    store.drop(f"int8 {name}")
    tensors = {name: replace(tensor, quantization=known[name]) for name, tensor in graph.tensors.items()}
    nodes = tuple(integer_nodes[node.name] for node in graph.nodes)
    integer_graph = Graph(graph.name, graph.input, graph.output, nodes, tensors)
    return IntegerModel(integer_graph, errors, notes=tuple(dict.fromkeys(notes)), solver_seconds=seconds)


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


def _fill(store: ActivationStore, tensor: str, batches: Iterable[tuple[Array, Array]]) -> list[int]:
    """Store the calibration samples; returns the size of every chunk."""
    sizes: list[int] = []
    for analog, quantized in batches:
        store.put(f"float {tensor}", len(sizes), analog)
        store.put(f"int8 {tensor}", len(sizes), quantized)
        sizes.append(len(analog))
    return sizes


def _advance(store: ActivationStore, node: Node, integer: IntegerOperator, chunks: int) -> None:
    for chunk in range(chunks):
        analog = node.op.run([store.get(f"float {name}", chunk) for name in node.inputs])
        quantized = integer.run([store.get(f"int8 {name}", chunk) for name in node.inputs])
        store.put(f"float {node.output}", chunk, analog)
        store.put(f"int8 {node.output}", chunk, quantized)


def _solving_order(graph: Graph) -> tuple[Node, ...]:
    """The nodes, with the smaller of two layers that are added before the larger one.

    The later one makes up for the error of the earlier one, and can do so the better the more inputs
    it has.
    """
    order = list(graph.nodes)
    for node in graph.nodes:
        if not isinstance(node.op, Add):
            continue
        branches = [graph.producer(name) for name in node.inputs]
        layers = [branch for branch in branches if branch and isinstance(branch.op, WeightedOperator)]
        if len(layers) != 2 or layers[0] is layers[1]:
            continue
        small, large = sorted(layers, key=lambda layer: layer.op.weight[0].size)  # type: ignore[attr-defined]
        place = order.index(large)
        ready = {graph.input, *(earlier.output for earlier in order[:place])}
        if order.index(small) > place and ready.issuperset(small.inputs):
            order.remove(small)
            order.insert(place, small)
    return tuple(order)


def _other_branch(graph: Graph, node: Node, known: Mapping[str, Quantization]) -> str | None:
    """The tensor a layer's output is added to, if it is already there and nothing else reads the output."""
    readers = graph.consumers(node.output)
    if len(readers) != 1 or not isinstance(readers[0].op, Add) or node.output == graph.output:
        return None
    others = [name for name in readers[0].inputs if name != node.output]
    return others[0] if others and others[0] in known else None


@dataclass(frozen=True)
class _Samples:
    """The calibration samples on their way through both networks.

    Attributes:
        store: activations of the float and of the quantized network.
        known: quantizations of the tensors that are there.
        sizes: of the chunks.
    """

    store: ActivationStore
    known: Mapping[str, Quantization]
    sizes: Sequence[int]

    def both(self, tensor: str, chunk: int) -> tuple[Array, Array]:
        """A chunk of a tensor in the quantized network, real values, and in the float network."""
        rounded = dequantize(self.store.get(f"int8 {tensor}", chunk), self.known[tensor])
        return rounded, self.store.get(f"float {tensor}", chunk)

    def rows(self, node: Node, seed: tuple[int, ...]) -> Iterator[tuple[npt.NDArray[np.intp], Array, Array]]:
        """Positions, rows of X~ and rows of X of every chunk; the same rows where both networks agree."""
        operator = node.op
        assert isinstance(operator, WeightedOperator)
        for chunk in range(len(self.sizes)):
            quantized, analog = self.both(node.inputs[0], chunk)
            positions = sampled_positions(operator, analog.shape[1:], (*seed, chunk))
            analog_rows = operator.patches(analog, positions)
            same = np.array_equal(analog, quantized)
            yield positions, analog_rows if same else operator.patches(quantized, positions), analog_rows


def _statistics(
    samples: _Samples,
    node: Node,
    shape: Shape,
    settings: WeightSettings,
    seed: tuple[int, ...],
    branch: str | None,
) -> InputStatistics:
    """Stream the stored activations into the statistics of one layer, and of the branch beside it."""
    operator = node.op
    assert isinstance(operator, WeightedOperator)
    if branch is not None:
        return _statistics_beside(samples, node, seed, branch)
    accumulator = layer_accumulator(operator, shape, sum(samples.sizes), settings)
    for _, quantized, analog in samples.rows(node, seed):
        accumulator.update(quantized, analog)
    return accumulator.finish()


def _statistics_beside(samples: _Samples, node: Node, seed: tuple[int, ...], branch: str) -> LayerStatistics:
    """The statistics of a layer and of the branch its output is added to."""
    operator = node.op
    assert isinstance(operator, WeightedOperator)
    groups, taps, outputs = operator.groups, taps_of(operator), len(operator.weight)
    accumulator = StatisticsAccumulator(groups, taps)
    beside = ResidualAccumulator(groups, taps, outputs // groups)
    for chunk, (positions, quantized, analog) in enumerate(samples.rows(node, seed)):
        accumulator.update(quantized, analog)
        rounded, wanted = samples.both(branch, chunk)
        beside.update(quantized, analog, _rows(wanted - rounded, groups, positions))
    return replace(accumulator.finish(), residual=beside.finish())


def taps_of(operator: WeightedOperator) -> int:
    """Inputs of one neuron of a layer."""
    return int(np.prod(operator.weight.shape[1:]))


def layer_accumulator(
    operator: WeightedOperator, shape: Shape, samples: int, settings: WeightSettings
) -> Accumulator:
    """What collects the statistics of a layer.

    Args:
        operator: of the layer.
        shape: of its input without the batch.
        samples: of which rows will be added.
        settings: how its weights will be quantized.
    """
    rows = samples * min(operator.positions(shape), POSITIONS_PER_SAMPLE)
    how = settings.method, settings.options, settings.refine
    return statistics_accumulator(operator.groups, taps_of(operator), rows, *how)


def sampled_positions(
    operator: WeightedOperator, shape: Shape, seed: tuple[int, ...]
) -> npt.NDArray[np.intp]:
    """The output positions of a layer, for inputs of a shape, that enter its statistics.

    Args:
        operator: of the layer.
        shape: of its input without the batch.
        seed: of the user, then what tells the draws of one network apart: layer and chunk.
    """
    total = operator.positions(shape)
    if total <= POSITIONS_PER_SAMPLE:
        return np.arange(total)
    generator = stream(Purpose.POSITIONS, *seed)
    return np.sort(generator.choice(total, POSITIONS_PER_SAMPLE, replace=False))


def _rows(outputs: Array, groups: int, positions: npt.NDArray[np.intp]) -> Array:
    """Outputs (n, out, ...) of a layer at some positions as rows (groups, n * positions, out / groups)."""
    chosen = outputs.reshape(len(outputs), groups, outputs.shape[1] // groups, -1)[..., positions]
    return chosen.transpose(1, 0, 3, 2).reshape(groups, -1, chosen.shape[2])


def solve_layer(
    node: Node,
    statistics: InputStatistics,
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

    Raises:
        ModelError: weights or statistics are not finite, or levels do not fit into any alphabet.
    """
    operator = node.op
    assert isinstance(operator, WeightedOperator)
    chosen = settings.alphabet_of(node)
    weight: FloatArray = operator.weight.reshape(operator.weight.shape[0], -1).astype(np.float64)
    options = replace(settings.options, seed=seed)
    if operator.fixed_alphabet:
        options = replace(options, spfq_alphabet="finite")
    try:
        solution = quantize_layer(
            weight,
            operator.bias,
            statistics,
            chosen,
            settings.method,
            settings.granularity,
            options,
            settings.refine,
            lambda message: note(f"layer {node.name!r}: {message}"),
        )
    except ModelError as error:
        what = f"layer {node.name!r}: {error.what}"
        raise ModelError(what, where=error.where or node.source, why=error.why, hint=error.hint) from error
    weights = QuantizedWeights(solution.levels, solution.scales, solution.bias, solution.alphabet)
    return weights, float(solution.relative_error)

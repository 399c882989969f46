"""Flash and RAM of every layer at every width, from code generation itself.

For each alphabet the kernel calls of the whole network are scheduled as `codegen.emit` does, with
arbitrary codes; the bytes of their tables are those of the library that will be built: codes with the
padding of their packed format, biases, multipliers, clamps. Tables of a layer depend on the width of
that layer alone (a test builds a mixed library and compares), so the sizes of any assignment follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deployq.allocation.trial import trial_graph, weighted_nodes
from deployq.alphabet import Alphabet, alphabet
from deployq.codegen.arena import plan_arena
from deployq.codegen.emit import schedule_of
from deployq.codegen.generated import EmitOptions
from deployq.codegen.schedule import Schedule
from deployq.errors import BudgetError
from deployq.graph import Graph, Quantization
from deployq.targets import Target

#: Alphabets a layer may get, the best one known of each width: at three and four bits mid-rise has less
#: KL than mid-tread (all of ResNet-8: 0.049 against 0.060, and 0.015 against 0.017). Ternary codes take
#: as much flash as those of two bits and carry less; seven bits save an eighth of eight, at an error that
#: is already negligible.
ALPHABETS = ("binary", "midrise-2", "midrise-3", "midrise-4", "midtread-5", "midtread-6", "symmetric-8")

Assignment = Mapping[str, Alphabet]


@dataclass(frozen=True)
class Option:
    """A layer at one width; sizes in bytes.

    Attributes:
        alphabet: of the weights.
        tables_bytes: all constants of the layer.
        codes_bytes: the packed weights among them, padding included.
        function: C kernel.
        scratch_bytes: working memory of the kernel.
    """

    alphabet: Alphabet
    tables_bytes: int
    codes_bytes: int
    function: str
    scratch_bytes: int


@dataclass(frozen=True)
class LayerOptions:
    """The options of a weighted node, by name of the alphabet, and its number of weights."""

    node: str
    weights: int
    options: Mapping[str, Option]

    @property
    def cheapest(self) -> Option:
        """The option of the smallest tables."""
        return min(self.options.values(), key=lambda option: option.tables_bytes)


@dataclass(frozen=True)
class CodeSizes:
    """Bytes of machine code, measured by whoever has a compiler; none where constants alone count.

    A width that no other layer has brings a kernel of its own, one or two kilobytes.

    Attributes:
        base_bytes: what every library has.
        functions: bytes of each C function that only some widths need.
        needs: the functions among `functions` that each kernel links, itself included.
    """

    base_bytes: int = 0
    functions: Mapping[str, int] = field(default_factory=dict)
    needs: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def of(self, kernels: Iterable[str]) -> int:
        """Code of a library that uses these kernels."""
        linked = set().union(*(self.needs.get(kernel, frozenset()) for kernel in kernels))
        return self.base_bytes + sum(self.functions[function] for function in linked)


@dataclass(frozen=True)
class FlashCosts:
    """Flash of every assignment of widths to a network, for one target.

    Attributes:
        layers: of every weighted node, in the order of execution.
        other_bytes: tables of the other steps.
        code: of the kernels.
    """

    layers: Mapping[str, LayerOptions]
    other_bytes: int
    code: CodeSizes = field(default_factory=CodeSizes)

    @property
    def weights(self) -> int:
        """Number of weights of the network."""
        return sum(layer.weights for layer in self.layers.values())

    @property
    def smallest_flash(self) -> int:
        """Flash of the layers at their smallest, the code without kernels: no assignment takes less."""
        tables = sum(layer.cheapest.tables_bytes for layer in self.layers.values())
        return self.other_bytes + tables + self.code.base_bytes

    def option(self, node: str, letters: Alphabet) -> Option:
        """The option of a node."""
        return self.layers[node].options[letters.name]

    def weights_bytes(self, assignment: Assignment) -> int:
        """Constants of the library, its `weights_bytes`."""
        return self.other_bytes + sum(option.tables_bytes for option in self._chosen(assignment))

    def flash_bytes(self, assignment: Assignment) -> int:
        """Constants and code."""
        chosen = self._chosen(assignment)
        return self.weights_bytes(assignment) + self.code.of(option.function for option in chosen)

    def packed_bits(self, assignment: Assignment) -> float:
        """Bits per weight in flash, padding included; biases and scales are not counted."""
        return 8 * sum(option.codes_bytes for option in self._chosen(assignment)) / self.weights

    def _chosen(self, assignment: Assignment) -> list[Option]:
        return [self.option(node, assignment[node]) for node in self.layers]


def flash_costs(
    graph: Graph,
    calibrated: Mapping[str, Quantization],
    target: Target,
    options: EmitOptions | None = None,
    alphabets: Sequence[str] = ALPHABETS,
    code: CodeSizes | None = None,
    ram: int | None = None,
    by_hand: Assignment | None = None,
) -> FlashCosts:
    """Measure every layer at every width.

    Args:
        graph: simplified float graph.
        calibrated: quantization of every tensor.
        target: core to generate for.
        options: of the library; layout of its input and output, and what it is optimized for.
        alphabets: names; a layer with a fixed alphabet has that one alone.
        code: machine code of the kernels; None counts constants only.
        ram: bytes the arena may take; options that cannot keep to it are left out. None for no limit.
        by_hand: layers whose alphabet is given; it is their only option.

    Raises:
        BudgetError: the arena exceeds `ram` at any widths.
        ModelError: a layer that no kernel computes safely.
    """
    options = options or EmitOptions()
    found: dict[str, dict[str, Option]] = {node.name: {} for node in weighted_nodes(graph)}
    other_bytes = 0
    for assignment in uniform_assignments(graph, alphabets, by_hand):
        schedule = _schedule(graph, calibrated, target, options, assignment)
        other_bytes = 0
        for step in schedule.steps:
            tables_bytes = sum(int(table.nbytes) for table in step.call.tables.values())
            if step.node is None or step.node.name not in found:
                other_bytes += tables_bytes
                continue
            letters = assignment[step.node.name]
            codes_bytes = int(step.call.tables["weights"].nbytes)
            found[step.node.name][letters.name] = Option(
                letters, tables_bytes, codes_bytes, step.call.function, step.call.scratch_bytes
            )
    layers = {
        node.name: LayerOptions(node.name, int(node.op.weight.size), found[node.name])  # type: ignore[attr-defined]
        for node in weighted_nodes(graph)
    }
    if ram is not None:
        layers = _within_ram(layers, graph, calibrated, target, options, ram)
    return FlashCosts(layers, other_bytes, code or CodeSizes())


def uniform_assignments(
    graph: Graph, alphabets: Sequence[str] = ALPHABETS, by_hand: Assignment | None = None
) -> tuple[Assignment, ...]:
    """One assignment per alphabet, in which every layer has it that may: together, all options.

    Args:
        graph: simplified float graph.
        alphabets: names.
        by_hand: layers whose alphabet is given.
    """
    given = dict(by_hand or {})
    for node in weighted_nodes(graph):
        fixed = getattr(node.op, "fixed_alphabet", "")
        given |= {node.name: alphabet(fixed)} if fixed else {}
    names = [node.name for node in weighted_nodes(graph)]
    return tuple({name: given.get(name, letters) for name in names} for letters in map(alphabet, alphabets))


def _schedule(
    graph: Graph,
    calibrated: Mapping[str, Quantization],
    target: Target,
    options: EmitOptions,
    assignment: Assignment,
) -> Schedule:
    trial = trial_graph(graph, calibrated, assignment)
    return schedule_of(trial, target, options)


def arena_bytes(
    graph: Graph,
    calibrated: Mapping[str, Quantization],
    target: Target,
    options: EmitOptions,
    assignment: Assignment,
) -> int:
    """RAM of the arena of an assignment; it depends on the widths by the kernels' scratch memory."""
    schedule = _schedule(graph, calibrated, target, options, assignment)
    return plan_arena(schedule, target.arena_alignment).bytes


def _within_ram(
    layers: Mapping[str, LayerOptions],
    graph: Graph,
    calibrated: Mapping[str, Quantization],
    target: Target,
    options: EmitOptions,
    ram: int,
) -> dict[str, LayerOptions]:
    """The layers without the options that exceed `ram` even where all other layers need the least.

    Scratch memory lives during one step only, so the arena is hardly ever larger than that of the
    neediest layer by itself.
    """
    least = {
        name: min(costs.options.values(), key=lambda option: option.scratch_bytes).alphabet
        for name, costs in layers.items()
    }
    smallest = arena_bytes(graph, calibrated, target, options, least)
    if smallest > ram:
        raise BudgetError(
            f"{smallest} bytes of RAM needed at any width, {ram} allowed",
            where="--ram",
            why="the activations alone take that much; widths of weights do not change it",
            hint="a smaller input or fewer channels in the largest layer"
            + (", or --optimize ram" if options.optimize != "ram" else ""),
        )
    kept: dict[str, LayerOptions] = {}
    for name, costs in layers.items():
        fitting = {}
        for option in costs.options.values():
            needs_more = option.scratch_bytes > costs.options[least[name].name].scratch_bytes
            alone = {**least, name: option.alphabet}
            if not needs_more or arena_bytes(graph, calibrated, target, options, alone) <= ram:
                fitting[option.alphabet.name] = option
        kept[name] = LayerOptions(name, costs.weights, fitting)
    return kept

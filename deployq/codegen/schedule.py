"""From an integer graph to an ordered list of kernel calls on buffers.

Kernels work on HWC. A reshape is only another name for a buffer; where the element order of a
buffer is not the one a reader needs (the caller's layout, a vector that becomes an image), a
transposition is inserted. A fully connected layer takes any order: its weights are permuted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from deployq.codegen.kernels import Core, Order, choose_kernel, kernel_order
from deployq.codegen.sparse_choice import CODE_BYTES, pay_for_code
from deployq.graph import Graph, Node
from deployq.ops import IntegerOperator, KernelCall
from deployq.ops.linear import IntegerLinear
from deployq.ops.reshape import IntegerReshape

Place = Literal["arena", "input", "output"]

#: Calls chosen before: of a node, a core, an order of its input, and with or without sparse weights.
Calls = dict[tuple[str, Core, Order | None, bool], KernelCall]


@dataclass(frozen=True)
class Step:
    """One kernel call.

    Attributes:
        name: of the graph node, or what an inserted transposition is for.
        node: the graph node; None for an inserted transposition.
        call: the kernel.
        inputs: indices of the buffers it reads.
        output: index of the buffer it writes.
        order: element order of the output; None where it is the graph's order.
    """

    name: str
    node: Node | None
    call: KernelCall
    inputs: tuple[int, ...]
    output: int
    order: Order | None


@dataclass(frozen=True)
class Buffer:
    """Activations between two steps: `size` in bytes, in the arena or given by the caller."""

    size: int
    place: Place


#: Stands for a step where the caller gives the next row of the network's input.
SOURCE = -1


@dataclass(frozen=True)
class Instruction:
    """What a cascade does next: a stripe of a layer, or lines moved to the start of a rolling buffer.

    Attributes:
        step: index of the step; None for a move; SOURCE for a row of the input.
        stripe: index of the stripe.
        sources: offset in bytes into each input; of a move: where the lines are in the buffer.
        target: offset in bytes into the output.
        output: index of the buffer that is written.
        bytes: that are written.
    """

    step: int | None
    stripe: int
    sources: tuple[int, ...]
    target: int
    output: int
    bytes: int


@dataclass(frozen=True)
class Cascade:
    """Steps that are executed depth first, see `deployq.codegen.cascade`.

    Attributes:
        start: index of the first step.
        stop: end of the steps, exclusive.
        calls: kernel of each stripe, by index of the step.
        sizes: bytes of the rolling buffers, by index of the buffer.
        instructions: in the order of execution.
        leads: how far its output may overwrite its inputs, see `KernelCall.lead`.
        source: the buffer of the network's input, if the caller gives it row by row; else None.
    """

    start: int
    stop: int
    calls: Mapping[int, tuple[KernelCall, ...]]
    sizes: Mapping[int, int]
    instructions: tuple[Instruction, ...]
    leads: Mapping[tuple[int, int], int]
    source: int | None = None

    @property
    def scratch_bytes(self) -> int:
        """Working memory of the stripe that needs most."""
        return max(call.scratch_bytes for calls in self.calls.values() for call in calls)


@dataclass(frozen=True)
class Schedule:
    """Steps in execution order, the buffers they use, and which of them are executed depth first.

    The call of a step in a cascade is that of one of its stripes.
    """

    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
    cascades: tuple[Cascade, ...] = ()

    @property
    def input(self) -> int:
        """Index of the buffer of the network's input; it is the first."""
        return 0

    @property
    def reads_rows(self) -> bool:
        """Whether the caller gives the input row by row."""
        return any(cascade.source is not None for cascade in self.cascades)

    @property
    def calls(self) -> tuple[KernelCall, ...]:
        """Every kernel call, those of stripes included."""
        stripes = {index: calls for cascade in self.cascades for index, calls in cascade.calls.items()}
        return tuple(
            call for index, step in enumerate(self.steps) for call in stripes.get(index, (step.call,))
        )


@dataclass(frozen=True)
class _Value:
    buffer: int
    order: Order | None


@dataclass
class _Builder:
    graph: Graph
    core: Core
    cores: Mapping[str, Core]
    calls: Calls
    sparse: bool
    sizes: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    reordered: dict[tuple[int, Order | None], _Value] = field(default_factory=dict)

    def new_buffer(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def transpose(self, value: _Value, rows: int, columns: int, order: Order | None, name: str) -> _Value:
        parameters = {"rows": rows, "columns": columns}
        call = KernelCall("transpose_a8.c.j2", "dq_transpose_a8", parameters=parameters)
        result = _Value(self.new_buffer(self.sizes[value.buffer]), order)
        self.steps.append(Step(name, None, call, (value.buffer,), result.buffer, order))
        return result

    def reorder(self, value: _Value, order: Order | None, name: str) -> _Value:
        """The value in another element order, by way of the graph's order; made once per buffer."""
        if value.order == order:
            return value
        key = (value.buffer, order)
        if key not in self.reordered:
            if value.order is not None:
                value = self.transpose(value, value.order.columns, value.order.rows, None, name)
            if order is not None:
                value = self.transpose(value, order.rows, order.columns, order, name)
            self.reordered[key] = value
        return self.reordered[key]

    def copy(self, value: _Value, name: str) -> _Value:
        return self.transpose(value, 1, self.sizes[value.buffer], value.order, name)

    def choose(self, node: Node, op: IntegerOperator, order: Order | None) -> KernelCall:
        """The kernel of a node, chosen once for each core and order of its input."""
        core = self.cores.get(node.name, self.core)
        key = (node.name, core, order, self.sparse)
        if key not in self.calls:
            shapes = self.graph.input_shapes(node)
            self.calls[key] = choose_kernel(op, shapes, core, order, node.name, self.sparse)
        return self.calls[key]

    def run(self, node: Node, values: list[_Value]) -> _Value:
        """Append the kernel of a node that is not a reshape."""
        op, shapes = node.op, self.graph.input_shapes(node)
        if not isinstance(op, IntegerOperator):
            raise TypeError(f"node {node.name!r} is not quantized")
        output = self.graph.tensors[node.output]
        order = kernel_order(output.shape)
        call = self.choose(node, op, values[0].order if isinstance(op, IntegerLinear) else None)
        if not isinstance(op, IntegerLinear):
            if len(output.shape) == 1 and call.in_place and all(v.order == values[0].order for v in values):
                order = values[0].order
            else:
                values = [
                    self.reorder(value, kernel_order(shape), f"input of {node.name}")
                    for value, shape in zip(values, shapes, strict=True)
                ]
        inputs = tuple(value.buffer for value in values)
        result = _Value(self.new_buffer(output.size), order)
        self.steps.append(Step(node.name, node, call, inputs, result.buffer, order))
        return result


def schedule_on(
    graph: Graph,
    core: Core,
    io_layout: str,
    cores: Mapping[str, Core] | None = None,
    calls: Calls | None = None,
) -> Schedule:
    """Order the kernel calls of an integer graph.

    Args:
        graph: integer graph; every node is an `IntegerOperator`.
        core: what kernels are chosen for.
        io_layout: "nhwc" or "nchw": order of the function's input and output.
        cores: of nodes for which something else counts, by name.
        calls: chosen before for the same graph; new ones are added.

    Raises:
        ModelError: some layer cannot be proven safe.
    """
    known: Calls = {} if calls is None else calls
    builders = [_Builder(graph, core, cores or {}, known, sparse) for sparse in (True, False)]
    chosen = _build(builders[0], io_layout)
    sparse_calls = [step.call for step in chosen.steps]
    if not CODE_BYTES.keys() & {call.function for call in sparse_calls}:
        return chosen
    dense = _build(builders[1], io_layout)
    paying = pay_for_code([step.call for step in dense.steps], sparse_calls)
    steps = [replace(step, call=call) for step, call in zip(chosen.steps, paying, strict=True)]
    return replace(chosen, steps=tuple(steps))


def _build(builder: _Builder, io_layout: str) -> Schedule:
    """The schedule with sparse weights wherever they are better in one layer, or nowhere."""
    graph = builder.graph
    source, target = graph.tensors[graph.input], graph.tensors[graph.output]
    first = builder.new_buffer(source.size)
    given = kernel_order(source.shape) if io_layout == "nhwc" else None
    values = {graph.input: _Value(first, given)}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        if isinstance(node.op, IntegerReshape):
            shape = graph.tensors[node.output].shape
            needed = kernel_order(shape) if len(shape) == 3 else inputs[0].order
            values[node.output] = builder.reorder(inputs[0], needed, node.name)
        else:
            values[node.output] = builder.run(node, inputs)
    wanted = kernel_order(target.shape) if io_layout == "nhwc" else None
    result = builder.reorder(values[graph.output], wanted, "output layout")
    if result.buffer == first:
        result = builder.copy(result, "output")
    places: dict[int, Place] = {first: "input", result.buffer: "output"}
    buffers = tuple(Buffer(size, places.get(index, "arena")) for index, size in enumerate(builder.sizes))
    return Schedule(tuple(builder.steps), buffers)

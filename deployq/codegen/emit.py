"""From an integer graph to the files of a C library."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment

from deployq.codegen.arena import Arena, plan_arena
from deployq.codegen.emit_cascade import CascadeText, Struct, cascade_text, stripe_structs
from deployq.codegen.generated import EmitOptions, GeneratedLibrary, LayerFacts
from deployq.codegen.kernel_source import kernel_module, kernel_source, nested, template_environment
from deployq.codegen.optimize import build_schedule
from deployq.codegen.schedule import Schedule, Step
from deployq.codegen.tables import c_type, table_bytes
from deployq.graph import Graph, Tensor
from deployq.ops import IntegerOperator, KernelCall
from deployq.ops.accumulate import Accumulation
from deployq.ops.base import Array
from deployq.targets import Target


@dataclass(frozen=True)
class Table:
    """A constant array: its C name, C element type, values, and what a comment says about it."""

    symbol: str
    member: str
    type: str
    values: Array
    comment: str


@dataclass(frozen=True)
class _Layer:
    """What the templates see of one layer: a kernel call, or in a cascade one for every stripe.

    Attributes:
        structs: the different parameter structures.
        of_stripes: the structure of each stripe; none outside of cascades.
        uses_scratch: whether the kernel takes scratch memory.
        arguments: of the call outside of cascades, C text.
    """

    index: int
    facts: LayerFacts
    comment: str
    parameter_type: str
    structs: tuple[Struct, ...]
    of_stripes: tuple[Struct, ...]
    uses_scratch: bool
    tables: tuple[Table, ...]
    arguments: str
    output: str


def generate(
    graph: Graph, target: Target, options: EmitOptions, schedule: Schedule | None = None
) -> GeneratedLibrary:
    """Generate the C library of an integer graph.

    Args:
        graph: integer graph, every tensor quantized.
        target: core to generate for.
        options: names and layout.
        schedule: made before; the one `options.optimize` asks for if None.

    Raises:
        ModelError: a layer whose number range cannot be proven safe.
    """
    environment = template_environment()
    schedule = schedule or schedule_of(graph, target, options)
    arena = plan_arena(schedule, target.arena_alignment)
    layers = tuple(
        _layer(environment, graph, schedule, arena, index, options.prefix)
        for index in range(len(schedule.steps))
    )
    cascades = _cascades(schedule, arena, layers)
    tables = [table for layer in layers for table in layer.tables]
    digest = hashlib.sha256(b"".join(table_bytes(table.values) for table in tables)).hexdigest()
    library = GeneratedLibrary(
        prefix=options.prefix,
        files={},
        layers=tuple(layer.facts for layer in layers),
        arena_bytes=arena.bytes,
        arena_alignment=arena.alignment,
        weights_bytes=sum(layer.facts.weights_bytes for layer in layers),
        weights_sha256=digest,
    )
    linkage = "static " if options.single_file else ""
    context = {
        "options": options,
        "m": options.prefix,
        "M": options.prefix.upper(),
        "target": target,
        "library": library,
        "layers": layers,
        "program": _program(layers, cascades),
        "tables": tables,
        "source": kernel_source(environment, schedule.calls, linkage),
        "linkage": linkage,
        "input": _endpoint(graph.tensors[graph.input]),
        "output": _endpoint(graph.tensors[graph.output]),
        "reads_rows": schedule.reads_rows,
        "uses_arena": bool(cascades) or any("memory" in layer.arguments for layer in layers),
    }
    files = {
        name: environment.get_template(template).render(context)
        for name, template in _file_templates(options).items()
    }
    return GeneratedLibrary(**{**vars(library), "files": files})


def schedule_of(graph: Graph, target: Target, options: EmitOptions) -> Schedule:
    """The schedule that a generated library has.

    Raises:
        ModelError: a layer whose number range cannot be proven safe.
        UsageError: the input cannot be read row by row, but should.
    """
    return build_schedule(graph, target.features, options.io_layout, options.optimize, options.input_rows)


def _cascades(schedule: Schedule, arena: Arena, layers: tuple[_Layer, ...]) -> tuple[CascadeText, ...]:
    structs = {layer.index: layer.of_stripes for layer in layers}
    uses_scratch = {layer.index: layer.uses_scratch for layer in layers}
    return tuple(
        cascade_text(index, cascade, schedule, arena, structs, uses_scratch)
        for index, cascade in enumerate(schedule.cascades)
    )


def _program(
    layers: tuple[_Layer, ...], cascades: tuple[CascadeText, ...]
) -> tuple[_Layer | CascadeText, ...]:
    """Layers and cascades in the order of execution."""
    inside = {index for cascade in cascades for index in range(cascade.start, cascade.last + 1)}
    items: dict[int, _Layer | CascadeText] = {
        layer.index: layer for layer in layers if layer.index not in inside
    }
    items |= {cascade.start: cascade for cascade in cascades}
    return tuple(items[index] for index in sorted(items))


def _file_templates(options: EmitOptions) -> dict[str, str]:
    """Template of each file."""
    m = options.prefix
    common = {f"{m}.h": "model.h.j2", "CMakeLists.txt": "CMakeLists.txt.j2", "main.c": "main.c.j2"}
    if options.single_file:
        return {f"{m}.c": "single.c.j2", **common}
    return {
        f"{m}.c": "model.c.j2",
        f"{m}_weights.h": "weights.h.j2",
        f"{m}_weights.c": "weights.c.j2",
        "dq_kernels.h": "kernels.h.j2",
        "dq_kernels.c": "kernels.c.j2",
        **common,
    }


def _endpoint(tensor: Tensor) -> dict[str, Any]:
    """Input or output of the network, for the header."""
    if tensor.quantization is None:
        raise TypeError(f"tensor {tensor.name!r} is not quantized")
    return {
        "shape": _shape_text(tensor.shape),
        "size": tensor.size,
        "spatial": len(tensor.shape) == 3,
        "rows": tensor.shape[1] if len(tensor.shape) == 3 else 1,
        "row_size": tensor.size // (tensor.shape[1] if len(tensor.shape) == 3 else 1),
        "scale": _float_literal(tensor.quantization.scale),
        "zero_point": tensor.quantization.zero_point,
    }


def _float_literal(value: float) -> str:
    """A float32 literal, the shortest that reads back as the same float32."""
    text = str(np.float32(value))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _layer(
    environment: Environment, graph: Graph, schedule: Schedule, arena: Arena, index: int, prefix: str
) -> _Layer:
    step = schedule.steps[index]
    module = kernel_module(environment, step.call.template)
    facts = _facts(graph, schedule, arena, index)
    symbol = f"{prefix}_layer{index:0{len(str(len(schedule.steps) - 1))}d}"
    tables = tuple(
        Table(
            symbol=f"{symbol}_{member.split('.')[-1]}",
            member=member,
            type=c_type(values),
            values=values,
            comment=_table_comment(member, facts, step.call.weights_format),
        )
        for member, values in step.call.tables.items()
    )
    symbols = {table.member: table.symbol for table in tables}
    stripes = _stripe_calls(schedule, index)
    structs, of_stripes = stripe_structs(symbol, stripes, symbols)
    if not stripes:
        structs = (Struct(symbol, nested(symbols | dict(step.call.parameters))),)
    places = [_pointer(schedule, arena, buffer) for buffer in (*step.inputs, step.output)]
    arguments = [f"&{symbol}", *places]
    if module.uses_scratch:
        offset = arena.scratch[index]
        arguments.append("NULL" if offset is None else f"memory + {offset}")
    return _Layer(
        index=index,
        facts=facts,
        comment=_layer_comment(graph, step, facts),
        parameter_type=module.parameter_type,
        structs=structs,
        of_stripes=of_stripes,
        uses_scratch=module.uses_scratch,
        tables=tables,
        arguments=", ".join(arguments),
        output=places[-1],
    )


def _stripe_calls(schedule: Schedule, index: int) -> tuple[KernelCall, ...]:
    """The calls of the stripes of a step; none where it is executed in one go."""
    return next((cascade.calls[index] for cascade in schedule.cascades if index in cascade.calls), ())


def _pointer(schedule: Schedule, arena: Arena, buffer: int) -> str:
    """C expression of the address of a buffer."""
    offset = arena.buffers[buffer]
    return schedule.buffers[buffer].place if offset is None else f"memory + {offset}"


def _facts(graph: Graph, schedule: Schedule, arena: Arena, index: int) -> LayerFacts:
    step = schedule.steps[index]
    size = schedule.buffers[step.output].size
    stripes = _stripe_calls(schedule, index)
    accumulation = _accumulation(step)
    node = step.node
    op = node.op if node else None
    return LayerFacts(
        name=step.name,
        node=node.name if node else "",
        source=node.source if node else "",
        op=op.kind if op else "transpose",
        function=step.call.function,
        output_shape=graph.tensors[node.output].shape if node else (size,),
        order=step.order,
        macs=op.macs(graph.input_shapes(node)) if node and isinstance(op, IntegerOperator) else 0,
        weight_bits=accumulation.weights.alphabet.bits if accumulation else 0,
        alphabet=accumulation.weights.alphabet.name if accumulation else "",
        weights_bytes=sum(int(table.nbytes) for table in step.call.tables.values()),
        accumulator_bits=accumulation.accumulator_bits if accumulation else 0,
        output_bytes=size,
        arena_offset=arena.buffers[step.output],
        scratch_bytes=max(call.scratch_bytes for call in (step.call, *stripes)),
        stripes=len(stripes) or 1,
    )


def _accumulation(step: Step) -> Accumulation | None:
    return getattr(step.node.op, "accumulation", None) if step.node else None


def _layer_comment(graph: Graph, step: Step, facts: LayerFacts) -> str:
    """What the generated C says above a layer's call."""
    if step.node is None:
        return step.name
    shapes = ", ".join(_shape_text(shape) for shape in graph.input_shapes(step.node))
    text = f"{facts.op} '{step.name}': {shapes} -> {_shape_text(facts.output_shape)}"
    if facts.alphabet:
        text += f", {facts.alphabet} weights"
    if facts.source and facts.source != step.name:
        text += f"; from {facts.source}"
    return text


def _table_comment(member: str, facts: LayerFacts, weights: str) -> str:
    """What the generated C says above a table; `weights` describes the format of weights."""
    text = f"{facts.op} '{facts.name}': {member.split('.')[-1]}"
    return f"{text} ({facts.alphabet}), {weights}" if member == "weights" else text

"""Read an ONNX file that may be hostile, in the order of `reference/onnx-integer-export.md`, section 6.

1. size limit, read; 2. parse, external data refused; 3. own walk over everything, into plain Python
values; 4. `onnx.checker` and strict shape inference. ONNX Runtime is never used for loading: it
evaluates constant subexpressions, and so can be made to hang or to allocate without bound.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, checker, shape_inference

from deployq.errors import ModelError, UsageError
from deployq.frontends.onnx_tensors import FLOAT_TYPES, Array, tensor_array, type_name

#: Largest file that is read, in bytes; microcontroller networks are a thousand times smaller.
LARGEST_FILE = 256 * 2**20
#: Most nodes of a file, those that only compute constants included; shape inference is quadratic in it.
LARGEST_NODE_COUNT = 10_000
OLDEST_OPSET, NEWEST_OPSET = 11, 26
DEFAULT_DOMAINS = ("", "ai.onnx")

#: Dimensions of a tensor, batch included; None where the model does not fix one.
Dims = tuple[int | None, ...]

_PLAIN_ATTRIBUTES = {
    AttributeProto.INT: "i",
    AttributeProto.FLOAT: "f",
    AttributeProto.STRING: "s",
    AttributeProto.INTS: "ints",
    AttributeProto.FLOATS: "floats",
    AttributeProto.STRINGS: "strings",
}


@dataclass(frozen=True)
class ModelNode:
    """A node of the file as plain Python values.

    Attributes:
        name: unique; made up from the operator and position where the file has none.
        op_type: ONNX operator.
        inputs: tensor names, "" where an optional input is absent.
        outputs: tensor names, "" where an optional output is absent.
        attributes: numbers, strings, tuples of them, or numpy arrays.
        problem: why the node cannot be read at all, or "".
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    problem: str = ""

    @property
    def label(self) -> str:
        """For messages and comments: Conv "layer1/conv"."""
        return f'{self.op_type} "{self.name}"'


@dataclass(frozen=True)
class SafeModel:
    """A model after the walk: sizes, names and values checked, nodes in an order in which they can run."""

    name: str
    nodes: tuple[ModelNode, ...]
    constants: Mapping[str, Array]
    input: str
    input_dims: Dims
    output: str
    opset: int
    producer: str
    inferred: Mapping[str, Dims]


def read_model(path: Path) -> bytes:
    """The bytes of a model file.

    Raises:
        UsageError: there is no such file.
        ModelError: the file is empty or larger than LARGEST_FILE.
    """
    if not path.is_file():
        raise UsageError("there is no such model file", where=str(path))
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ModelError(f"the model file is larger than {LARGEST_FILE >> 20} MiB", where=str(path))
    return data


def safe_model(data: bytes, where: str) -> SafeModel:
    """Parse and check a model.

    Args:
        data: the file.
        where: its name, for messages.

    Raises:
        ModelError: the model is malformed, unsafe, or of a form deployq does not import.
    """
    model = _parse(data, where)
    opset = _opset(model, where)
    constants = _initializers(model.graph, where)
    nodes = _named(_node(node, where) for node in model.graph.node)
    name, dims = _input(model.graph, constants, where)
    output = _output(model.graph, where)
    order = _order(nodes, {name, *constants}, where)
    nodes = tuple(nodes[index] for index in order)
    if output not in {tensor for node in nodes for tensor in node.outputs}:
        raise ModelError(f"the output {output!r} is not computed by any node", where=where)
    # Nodes that carry graphs of their own, or come from elsewhere, are not handed to the C++ checker;
    # the importer refuses the model on their account anyway.
    inferred = {} if any(node.problem for node in nodes) else _check(model, order, name, dims, where)
    graph_name, producer = (
        model.graph.name or "network",
        f"{model.producer_name} {model.producer_version}".strip(),
    )
    return SafeModel(graph_name, nodes, constants, name, dims, output, opset, producer, inferred)


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    if not data:
        raise ModelError("the model file is empty", where=where)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            "this is not an ONNX model", where=where, why=str(error), hint="the file may be truncated"
        ) from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError("the model contains no network", where=where)
    if len(model.graph.node) > LARGEST_NODE_COUNT:
        what = f"the model has {len(model.graph.node)} nodes, at most {LARGEST_NODE_COUNT} are read"
        raise ModelError(what, where=where)
    if any(isinstance(name, bytes) for name in _names(model)):
        raise ModelError("a name in the model is not valid UTF-8", where=where)
    if model.functions:
        why = f"it defines {', '.join(repr(function.name) for function in model.functions[:5])}"
        hint = "inline them, e.g. with onnx.inliner.inline_local_functions"
        raise ModelError(
            "models with functions of their own are not supported", where=where, why=why, hint=hint
        )
    if model.graph.sparse_initializer:
        raise ModelError("sparse initialisers are not supported", where=where)
    return model


def _names(model: onnx.ModelProto) -> Iterator[str | bytes]:
    """Every name that is read; protobuf gives bytes for what is not UTF-8."""
    graph = model.graph
    yield from (graph.name, model.producer_name, model.producer_version)
    yield from (entry.domain for entry in model.opset_import)
    yield from (entry.name for entry in (*graph.initializer, *graph.input, *graph.output, *model.functions))
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _opset(model: onnx.ModelProto, where: str) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS]
    if len(versions) != 1:
        raise ModelError("the model does not name one version of the ONNX operators", where=where)
    if not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
        raise ModelError(
            f"the model uses opset {versions[0]}",
            where=where,
            why=f"opsets {OLDEST_OPSET} to {NEWEST_OPSET} are supported",
            hint="export it again with another opset, or convert it with onnx.version_converter",
        )
    return int(versions[0])


def _initializers(graph: onnx.GraphProto, where: str) -> dict[str, Array]:
    constants: dict[str, Array] = {}
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in constants:
            raise ModelError(f"the initialiser name {tensor.name!r} is empty or used twice", where=where)
        constants[tensor.name] = tensor_array(tensor, f"{where}, initialiser {tensor.name!r}")
    return constants


def _node(node: onnx.NodeProto, where: str) -> ModelNode:
    attributes: dict[str, Any] = {}
    problem = "" if node.domain in DEFAULT_DOMAINS else f"operator of the domain {node.domain!r}"
    place = f"{where}, node {node.name!r} ({node.op_type})"
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            attributes[attribute.name] = tensor_array(attribute.t, place)
        elif attribute.type in _PLAIN_ATTRIBUTES and not attribute.ref_attr_name:
            attributes[attribute.name] = _attribute(attribute, place)
        else:
            kind = AttributeProto.AttributeType.Name(attribute.type)
            problem = problem or f"attribute {attribute.name!r} of type {kind}"
    return ModelNode(node.name, node.op_type, tuple(node.input), tuple(node.output), attributes, problem)


def _attribute(attribute: AttributeProto, place: str) -> object:
    """An attribute as int, float, str, or a tuple of these."""
    value = getattr(attribute, _PLAIN_ATTRIBUTES[attribute.type])
    single = isinstance(value, int | float | bytes)
    items = [
        item.decode(errors="replace") if isinstance(item, bytes) else item
        for item in ([value] if single else value)
    ]
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        raise ModelError(f"attribute {attribute.name!r} is not finite", where=place)
    return items[0] if single else tuple(items)


def _named(nodes: Iterable[ModelNode]) -> tuple[ModelNode, ...]:
    """Give every node a name of its own."""
    taken: set[str] = set()
    suffixes: dict[str, int] = {}  # the next one of every base, so that equal names take linear time
    result = []
    for index, node in enumerate(nodes):
        name = base = node.name or f"{node.op_type}_{index}"
        suffix = suffixes.get(base, 2)
        while name in taken:
            name, suffix = f"{base}_{suffix}", suffix + 1
        suffixes[base] = suffix
        taken.add(name)
        result.append(replace(node, name=name))
    return tuple(result)


def _input(graph: onnx.GraphProto, constants: Mapping[str, Array], where: str) -> tuple[str, Dims]:
    """Name and dimensions of the one input; models of IR 3 list their initialisers as inputs too."""
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs[:10]) or "none"
        raise ModelError(
            f"the model has {len(inputs)} inputs ({names})", where=where, why="exactly one is supported"
        )
    value = inputs[0]
    place = f"{where}, input {value.name!r}"
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise ModelError("the input has no tensor shape", where=place)
    tensor = value.type.tensor_type
    if tensor.elem_type not in FLOAT_TYPES:
        why = "the network must take real numbers; deployq quantizes the input itself"
        raise ModelError(f"the input is of type {type_name(tensor.elem_type)}", where=place, why=why)
    dims = tuple(_dimension(dimension) for dimension in tensor.shape.dim)
    if len(dims) not in (2, 4) or None in dims[1:]:
        shown = [size if size is not None else "?" for size in dims]
        raise ModelError(
            f"input of shape {shown}",
            where=place,
            why="supported: (batch, channels, height, width) or (batch, features), fixed but for the batch",
            hint="export the model with a fixed input size",
        )
    return value.name, dims


def _dimension(dimension: onnx.TensorShapeProto.Dimension) -> int | None:
    """A fixed size; None for a name, for nothing, and for the -1 or 0 some exporters write."""
    return dimension.dim_value if dimension.HasField("dim_value") and dimension.dim_value > 0 else None


def _output(graph: onnx.GraphProto, where: str) -> str:
    if len(graph.output) != 1:
        names = ", ".join(repr(value.name) for value in graph.output[:10]) or "none"
        why = "exactly one is supported"
        raise ModelError(f"the model has {len(graph.output)} outputs ({names})", where=where, why=why)
    return str(graph.output[0].name)


def _order(nodes: Sequence[ModelNode], known: set[str], where: str) -> list[int]:
    """Indices of the nodes in an order in which they can run, the given one where it is one (Kahn)."""
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for tensor in filter(None, node.outputs):
            if tensor in producer or tensor in known:
                raise ModelError(f"the tensor {tensor!r} is computed twice", where=f"{where}, {node.label}")
            producer[tensor] = index
    readers: dict[int, list[int]] = {}
    waiting = []
    for index, node in enumerate(nodes):
        needed = {name for name in node.inputs if name and name not in known}
        if missing := sorted(needed.difference(producer)):  # not of all names: that would be quadratic
            raise ModelError(f"the tensor {missing[0]!r} is not defined", where=f"{where}, {node.label}")
        sources = {producer[name] for name in needed}
        waiting.append(len(sources))
        for source in sources:
            readers.setdefault(source, []).append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, []):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, waiting, strict=True) if count)
        raise ModelError("the nodes form a cycle", where=f"{where}, {stuck.label}")
    return order


def _set_batch(value: onnx.ValueInfoProto, batch: int | None) -> None:
    """State the batch size as we read it. A free one stays free: constants may assume any size."""
    dimension = value.type.tensor_type.shape.dim[0]
    dimension.Clear()
    if batch is not None:
        dimension.dim_value = batch


def _check(
    model: onnx.ModelProto, order: Sequence[int], name: str, dims: Dims, where: str
) -> dict[str, Dims]:
    """Run the checker and strict shape inference; dimensions of every tensor.

    What the file claims about intermediate tensors is dropped first: it is not needed, and some
    exporters write sizes that contradict the operators.
    """
    graph = model.graph
    nodes = [graph.node[index] for index in order]
    copied = onnx.GraphProto()
    copied.node.extend(nodes)
    del graph.node[:]
    graph.node.extend(copied.node)
    del graph.value_info[:]
    for value in graph.input:
        if value.name == name:
            _set_batch(value, dims[0])
    for dimension in graph.output[0].type.tensor_type.shape.dim:
        if dimension.dim_value <= 0 or dims[0] is None:
            dimension.Clear()
    try:
        checker.check_model(model)
        inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    except (checker.ValidationError, shape_inference.InferenceError, ValueError, RuntimeError) as error:
        # The last two are what the C++ code makes of damaged strings and of its own failed assertions.
        raise ModelError("the model is not valid ONNX", where=where, why=str(error).strip()) from error
    return {
        value.name: tuple(_dimension(dimension) for dimension in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }

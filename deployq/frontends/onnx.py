"""ONNX models to float graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.errors import ModelError
from deployq.frontends.onnx_fold import FOLDABLE, fold
from deployq.frontends.onnx_safety import Dims, ModelNode, SafeModel, read_model, safe_model
from deployq.graph import Graph, Node, Shape, Tensor
from deployq.ops import FloatOperator, SourceNode, UnsupportedNodeError, importers

Array = npt.NDArray[Any]

#: Largest activation, elements per sample; 16 MB as int8, far beyond any microcontroller.
LARGEST_ACTIVATION = 2**24
#: Most operators of a network; the passes take time quadratic in it.
LARGEST_GRAPH = 5000
#: Bytes all folded constants may take together.
_FOLD_BUDGET = 256 * 2**20
_LISTED_PROBLEMS = 50


@dataclass(frozen=True)
class ImportedModel:
    """A float network and where it came from.

    Attributes:
        graph: float graph, shapes per sample.
        sha256: hexadecimal digest of the ONNX file.
        producer: the exporter named in the file, may be empty.
        opset: version of the ONNX operators.
    """

    graph: Graph
    sha256: str
    producer: str
    opset: int


def load_onnx(path: Path) -> ImportedModel:
    """Read an ONNX file that may come from anywhere.

    Raises:
        UsageError: there is no such file.
        ModelError: the model is malformed, unsafe, or uses what deployq does not support; all
            unsupported nodes are listed in one error.
    """
    return load_onnx_bytes(read_model(path), str(path))


def load_onnx_bytes(data: bytes, where: str) -> ImportedModel:
    """Read an ONNX model from memory; `where` names it in messages. Raises as `load_onnx`."""
    model = safe_model(data, where)
    graph = _Import(model, where).graph()
    return ImportedModel(graph, hashlib.sha256(data).hexdigest(), model.producer, model.opset)


@dataclass(frozen=True)
class _Activation:
    """A tensor of the graph under construction; `tensor` is its name there."""

    tensor: str
    shape: Shape


#: What a name of the file stands for; None for the result of a node that could not be imported.
_Value = Array | _Activation | None


@dataclass
class _Import:
    """One import: walks the nodes in order, collecting operators and problems."""

    model: SafeModel
    where: str
    values: dict[str, _Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    tensors: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    folded_bytes: int = 0

    def graph(self) -> Graph:
        """The whole graph; raises ModelError listing every node that is not supported."""
        model = self.model
        shape = tuple(size for size in model.input_dims[1:] if size is not None)
        if prod(shape) > LARGEST_ACTIVATION:
            raise ModelError(f"input of shape {shape} is too large", where=self.where)
        self.values = {**model.constants, model.input: _Activation(model.input, shape)}
        self.tensors = {model.input}
        used = {name for node in model.nodes for name in node.inputs} | {model.output}
        for node in model.nodes:
            try:
                self._import(node, used)
            except UnsupportedNodeError as reason:
                self.problems.append(f"{node.label}: {reason}")
                for name in filter(None, node.outputs):
                    self.values[name] = self._guess(name)
            if len(self.nodes) > LARGEST_GRAPH:
                what = f"the network has more than {LARGEST_GRAPH} operators"
                raise ModelError(what, where=self.where, why="they are not supported")
        self._report()
        output = self.values[model.output]
        if not isinstance(output, _Activation) or not self.nodes:
            raise ModelError("the output does not depend on the input through any operator", where=self.where)
        empty = Graph(model.name, model.input, model.input, (), {model.input: Tensor(model.input, shape)})
        return empty.with_nodes(self.nodes, output=output.tensor)

    def _import(self, node: ModelNode, used: set[str]) -> None:
        if node.problem:
            raise UnsupportedNodeError(node.problem)
        if node.op_type not in importers() and node.op_type not in FOLDABLE:
            raise UnsupportedNodeError("this operator is not supported")
        if not node.outputs or not node.outputs[0] or any(name in used for name in node.outputs[1:] if name):
            raise UnsupportedNodeError("only the first output is supported")
        inputs = [self.values[name] if name else None for name in node.inputs]
        if any(name and value is None for name, value in zip(node.inputs, inputs, strict=True)):
            self.values[node.outputs[0]] = self._guess(node.outputs[0])  # nothing to judge it by
            return
        if node.op_type == "Shape" or not any(isinstance(value, _Activation) for value in inputs):
            self.values[node.outputs[0]] = self._constant(node, inputs)
        else:
            self._apply(node, inputs)

    def _apply(self, node: ModelNode, inputs: list[_Value]) -> None:
        """Append the operators a node stands for."""
        if node.op_type not in importers():
            raise UnsupportedNodeError("supported for constants only")
        plain = tuple(value.shape if isinstance(value, _Activation) else value for value in inputs)
        source = SourceNode(node.name, node.op_type, node.attributes, plain, self.model.opset)
        try:
            with np.errstate(all="ignore"):  # what overflows is refused by _check_finite
                operators = importers()[node.op_type](source)
        except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
            raise UnsupportedNodeError(f"malformed: {error}") from error
        current = [value for value in inputs if isinstance(value, _Activation)]
        for index, operator in enumerate(operators):
            last = index == len(operators) - 1
            current = [self._append(node, operator, current, "" if last else f"/{index + 1}")]
        self._agree(node.outputs[0], current[0].shape)
        self.values[node.outputs[0]] = current[0]

    def _append(
        self, node: ModelNode, operator: FloatOperator, inputs: list[_Activation], suffix: str
    ) -> _Activation:
        _check_finite(operator)
        try:
            shape = operator.output_shape([value.shape for value in inputs])
        except ValueError as error:
            raise UnsupportedNodeError(str(error)) from error
        if prod(shape) == 0:
            raise UnsupportedNodeError(f"the result has shape {shape}, it is empty")
        if prod(shape) > LARGEST_ACTIVATION:
            raise UnsupportedNodeError(f"an activation of shape {shape} is too large")
        tensor = node.outputs[0] + suffix
        while tensor in self.tensors or (suffix and tensor in self.values):
            tensor += "'"
        self.tensors.add(tensor)
        name = node.name + suffix
        while name in self.names:
            name += "'"
        self.names.add(name)
        self.nodes.append(Node(name, operator, tuple(value.tensor for value in inputs), tensor, node.label))
        return _Activation(tensor, shape)

    def _constant(self, node: ModelNode, inputs: list[_Value]) -> Array:
        if node.op_type == "Constant":
            return _constant_value(node.attributes)
        if node.op_type == "Shape":
            result = self._shape(node, inputs)
        else:
            constants = [value for value in inputs if not isinstance(value, _Activation)]
            result = fold(node.op_type, constants, node.attributes)
        self.folded_bytes += result.nbytes
        if self.folded_bytes > _FOLD_BUDGET:
            raise UnsupportedNodeError(
                f"the constant subexpressions of the model exceed {_FOLD_BUDGET >> 20} MiB"
            )
        return result

    def _shape(self, node: ModelNode, inputs: list[_Value]) -> Array:
        """ONNX Shape. A free batch counts as 1: reshapes ignore the batch they are given."""
        value = inputs[0] if inputs else None
        if value is None:
            raise UnsupportedNodeError("the input is missing")
        dims = (
            (self.model.input_dims[0] or 1, *value.shape) if isinstance(value, _Activation) else value.shape
        )
        return np.array(dims[node.attributes.get("start", 0) : node.attributes.get("end")], dtype=np.int64)

    def _guess(self, name: str) -> _Value:
        """An activation of the inferred shape, so that nodes behind an unsupported one are judged too."""
        shape = _per_sample(self.model.inferred.get(name, ()))
        return None if shape is None or len(shape) not in (1, 3) else _Activation(name, shape)

    def _agree(self, name: str, shape: Shape) -> None:
        inferred = _per_sample(self.model.inferred.get(name, ()))
        if inferred is not None and inferred != shape:
            raise UnsupportedNodeError(f"shape {shape} here, but ONNX infers {inferred}")

    def _report(self) -> None:
        count = len(self.problems)
        if count:
            listed = self.problems[:_LISTED_PROBLEMS]
            more = [] if count <= _LISTED_PROBLEMS else [f"and {count - _LISTED_PROBLEMS} more"]
            raise ModelError(
                f"{count} {'node is' if count == 1 else 'nodes are'} not supported",
                where=self.where,
                why="\n    ".join([*listed, *more]),
                hint="`deployq ops` lists the supported operators and their limits",
            )


def _constant_value(attributes: Mapping[str, Any]) -> Array:
    """Value of a Constant node."""
    types = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if len(attributes) == 1:
        name, value = next(iter(attributes.items()))
        if name == "value":
            return np.asarray(value)
        if name in types:
            return np.array(value, dtype=types[name])
    raise UnsupportedNodeError(f"Constant with {', '.join(attributes) or 'no value'}")


def _per_sample(dims: Dims) -> Shape | None:
    """The shape without the batch, or None if a dimension is unknown."""
    shape = tuple(size for size in dims[1:] if size is not None)
    return shape if dims and len(shape) == len(dims) - 1 else None


def _check_finite(operator: FloatOperator) -> None:
    """Refuse parameters that are not finite (an infinite scalar passes the walk as a Clip bound)."""
    for attribute in fields(operator):  # type: ignore[arg-type]
        value = getattr(operator, attribute.name)
        if isinstance(value, np.ndarray) and not np.all(np.isfinite(value)):
            raise UnsupportedNodeError(f"{attribute.name} is not finite")

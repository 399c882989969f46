"""Flatten, Reshape, Squeeze, Unsqueeze: the same values under another per-sample shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deployq.graph import Quantization, Shape
from deployq.ops.base import (
    Array,
    FloatOperator,
    Int8Array,
    IntegerOperator,
    OnnxBuilder,
    SourceNode,
    UnsupportedNodeError,
    imports,
)


def _check(shape: Shape, inputs: Sequence[Shape]) -> Shape:
    if np.prod(shape) != np.prod(inputs[0]):
        raise ValueError(f"cannot reshape {inputs[0]} to {shape}")
    return shape


@dataclass(frozen=True)
class Reshape(FloatOperator):
    """Reshape each sample: (C, H, W) to (C*H*W,), or between shapes that differ in ones."""

    kind: ClassVar[str] = "reshape"
    keeps_quantization: ClassVar[bool] = True
    shape: Shape

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _check(self.shape, inputs)

    def run(self, inputs: Sequence[Array]) -> Array:
        return inputs[0].reshape(len(inputs[0]), *self.shape)

    def integer(self, inputs: Sequence[Quantization], output: Quantization) -> IntegerOperator:
        return IntegerReshape(self.shape)


@dataclass(frozen=True)
class IntegerReshape(IntegerOperator):
    """Deployed reshape. It costs nothing in C: the following weights are permuted to HWC order."""

    kind: ClassVar[str] = "reshape"
    shape: Shape

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _check(self.shape, inputs)

    def run(self, inputs: Sequence[Array]) -> Int8Array:
        return inputs[0].reshape(len(inputs[0]), *self.shape)

    def lower(
        self, builder: OnnxBuilder, inputs: Sequence[str], output: str, shapes: Sequence[Shape]
    ) -> None:
        shape = builder.constant(np.array([-1, *self.shape], dtype=np.int64))
        builder.add("Reshape", inputs[0], shape, output=output)


def _reshape(node: SourceNode, shape: Shape) -> Sequence[FloatOperator]:
    source = node.shape(0)
    flattens = len(shape) == 1
    same_without_ones = [size for size in source if size != 1] == [size for size in shape if size != 1]
    if np.prod(shape) != np.prod(source) or not (flattens or same_without_ones):
        raise UnsupportedNodeError(f"reshape of {source} to {shape} is neither a flatten nor a squeeze")
    if len(shape) not in (1, 3):
        raise UnsupportedNodeError(
            f"reshape of {source} to {shape}: only (features,) and (C, H, W) are supported"
        )
    return [] if shape == source else [Reshape(shape)]


@imports("Flatten", note="axis 1")
def import_flatten(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Flatten."""
    if node.attributes.get("axis", 1) not in (1, -len(node.shape(0))):
        raise UnsupportedNodeError("Flatten with an axis other than 1")
    return _reshape(node, (int(np.prod(node.shape(0))),))


@imports("Reshape", note="flatten, or adding and removing dimensions of size one")
def import_reshape(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Reshape to a constant shape; the batch dimension may be 0, -1 or a fixed number."""
    constant = node.constant(1)
    target = node.attributes.get("shape") if constant is None else constant.reshape(-1).tolist()
    if not target or len(target) < 2:
        raise UnsupportedNodeError(f"reshape to {target}, which drops the batch dimension")
    if node.attributes.get("allowzero", 0) and 0 in target:
        raise UnsupportedNodeError(f"reshape to {target}, an empty tensor")
    source = node.shape(0)
    shape = [
        source[index] if size == 0 and index < len(source) else int(size)
        for index, size in enumerate(target[1:])
    ]
    if -1 in shape:
        known = int(np.prod([size for size in shape if size != -1]))
        if shape.count(-1) > 1 or known == 0 or int(np.prod(source)) % known:
            raise UnsupportedNodeError(f"reshape of {source} to {target}")
        shape[shape.index(-1)] = int(np.prod(source)) // known
    return _reshape(node, tuple(shape))


@imports("Squeeze", "Unsqueeze", note="dimensions of size one other than the batch")
def import_squeeze(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Squeeze and Unsqueeze; axes are an attribute before opset 13, an input since."""
    constant = node.constant(1)
    axes = node.attributes.get("axes") if constant is None else constant.reshape(-1).tolist()
    source = node.shape(0)
    squeezes = node.op_type == "Squeeze"
    if axes is None:
        axes = [index + 1 for index, size in enumerate(source) if size == 1]
    rank = len(source) + 1 if squeezes else len(source) + 1 + len(axes)
    positions = sorted(axis % rank for axis in axes)
    if 0 in positions:
        raise UnsupportedNodeError(f"{node.op_type} of the batch dimension")
    shape = list(source)
    for axis in reversed(positions) if squeezes else positions:
        if not squeezes:
            shape.insert(axis - 1, 1)
        elif shape.pop(axis - 1) != 1:
            raise UnsupportedNodeError(f"Squeeze of axis {axis} of {source}")
    return _reshape(node, tuple(shape))


@imports("Identity", "Dropout", note="removed")
def import_identity(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX operators that do nothing at inference."""
    if node.op_type == "Dropout" and (training := node.constant(2)) is not None and np.any(training):
        raise UnsupportedNodeError("Dropout in training mode")
    node.shape(0)
    return []


@imports("Cast", note="between floating-point types, removed")
def import_cast(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Cast to a floating-point type (FLOAT, FLOAT16, DOUBLE, BFLOAT16)."""
    if node.attributes.get("to") not in (1, 10, 11, 16):
        raise UnsupportedNodeError("Cast of an activation to a type that is not floating-point")
    node.shape(0)
    return []

"""Evaluate constant subexpressions of a model: a fixed list of cheap operators, in numpy.

ONNX Runtime would evaluate anything while loading, a 2 GB Expand or an endless Loop included.
Here the size of every result is known before it is computed, and bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from deployq.ops import UnsupportedNodeError

Array = npt.NDArray[Any]
Attributes = Mapping[str, Any]

#: Largest constant a folded operator may produce, in bytes.
LARGEST_RESULT = 64 * 2**20
#: Largest number of elements of one result, whatever its type (8 bytes at most).
_LARGEST_COUNT = LARGEST_RESULT // 8

_CAST_TYPES: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float32,
    TensorProto.FLOAT16: np.float32,
    TensorProto.BFLOAT16: np.float32,
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.BOOL: np.bool_,
}


def fold(op_type: str, inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    """Result of an operator whose inputs are all constant.

    Args:
        op_type: ONNX operator.
        inputs: constants; None where an optional input is absent.
        attributes: of the node, as plain Python values.

    Raises:
        UnsupportedNodeError: the operator is not in the list, the inputs do not fit, or the result would be
            too large or not finite.
    """
    if op_type not in _FOLDERS:
        raise UnsupportedNodeError(f"{op_type} of constants cannot be evaluated at build time")
    if not inputs or inputs[0] is None:
        raise UnsupportedNodeError("the first input is missing")
    try:
        with np.errstate(all="ignore"):
            result = _FOLDERS[op_type](inputs, attributes)
    except (ValueError, IndexError, TypeError, KeyError, OverflowError) as error:
        raise UnsupportedNodeError(f"the constants do not fit: {error}") from error
    if result.dtype.kind == "f" and not np.all(np.isfinite(result)):
        raise UnsupportedNodeError("the constant result is not finite")
    return result


def _limit(count: int) -> None:
    if count > _LARGEST_COUNT:
        raise UnsupportedNodeError(
            f"a constant of {count} elements; at most {LARGEST_RESULT} bytes are computed"
        )


def _present(inputs: Sequence[Array | None], index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None


def _needed(inputs: Sequence[Array | None], index: int) -> Array:
    value = _present(inputs, index)
    if value is None:
        raise ValueError(f"input {index} is missing")
    return value


def _integers(inputs: Sequence[Array | None], index: int, attribute: object) -> list[int] | None:
    """A list of integers given as an input in newer opsets, as an attribute in older ones."""
    value = _present(inputs, index)
    if value is None:
        return None if attribute is None else [int(item) for item in np.ravel(np.asarray(attribute))]
    _limit(value.size)
    return [int(item) for item in value.reshape(-1)]


def _identity(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    return _needed(inputs, 0)


def _cast(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    values = _needed(inputs, 0)
    _limit(values.size)
    if attributes["to"] not in _CAST_TYPES:
        raise UnsupportedNodeError(f"cast of a constant to ONNX type {attributes['to']}")
    return values.astype(_CAST_TYPES[attributes["to"]])


def _reshape(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    values = _needed(inputs, 0)
    target = _integers(inputs, 1, attributes.get("shape"))
    if target is None or len(target) > 8:
        raise ValueError("no usable target shape")
    if not attributes.get("allowzero", 0):
        target = [values.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    return values.reshape(target)


def _flatten(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    values = _needed(inputs, 0)
    axis = int(attributes.get("axis", 1))
    return values.reshape(prod(values.shape[: axis if axis >= 0 else axis + values.ndim]), -1)


def _transpose(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    return np.transpose(_needed(inputs, 0), attributes.get("perm"))


def _unsqueeze(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    axes = _integers(inputs, 1, attributes.get("axes"))
    if axes is None or len(axes) > 8:
        raise ValueError("no usable axes")
    return np.expand_dims(_needed(inputs, 0), tuple(axes))


def _squeeze(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    axes = _integers(inputs, 1, attributes.get("axes"))
    return np.squeeze(_needed(inputs, 0), None if axes is None else tuple(axes))


def _gather(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    values, indices = _needed(inputs, 0), _needed(inputs, 1)
    axis = int(attributes.get("axis", 0))
    _limit(indices.size * (values.size // max(values.shape[axis], 1)))
    return np.asarray(np.take(values, indices, axis=axis))


def _concat(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    values = [_needed(inputs, index) for index in range(len(inputs))]
    _limit(sum(value.size for value in values))
    return np.concatenate(values, axis=int(attributes["axis"]))


def _slice(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    values = _needed(inputs, 0)
    starts, ends = _integers(inputs, 1, None) or [], _integers(inputs, 2, None) or []
    axes = _integers(inputs, 3, None) or list(range(len(starts)))
    steps = _integers(inputs, 4, None) or [1] * len(starts)
    slices = [slice(None)] * values.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise UnsupportedNodeError("Slice of a constant with a step that is not positive")
        slices[axis] = slice(start, end, step)
    return values[tuple(slices)]


def _sqrt(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    values = _needed(inputs, 0)
    _limit(values.size)
    return np.asarray(np.sqrt(values), dtype=values.dtype)


def _divide(first: Array, second: Array) -> Array:
    """ONNX division: integers truncate towards zero."""
    if np.any(second == 0):
        raise UnsupportedNodeError("division of a constant by zero")
    if first.dtype.kind == "f":
        return np.asarray(first / second)
    quotient = np.abs(first) // np.abs(second)
    return np.asarray(quotient * np.sign(first) * np.sign(second))


def _elementwise(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def run(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
        first, second = _needed(inputs, 0), _needed(inputs, 1)
        if first.dtype != second.dtype:
            raise ValueError(f"operands of types {first.dtype} and {second.dtype}")
        _limit(prod(np.broadcast_shapes(first.shape, second.shape)))
        return np.asarray(function(first, second), dtype=first.dtype)

    return run


_FOLDERS: dict[str, Callable[[Sequence[Array | None], Attributes], Array]] = {
    "Add": _elementwise(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _elementwise(_divide),
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _identity,
    "Mul": _elementwise(np.multiply),
    "Reshape": _reshape,
    "Slice": _slice,
    "Sqrt": _sqrt,
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

#: Operators that may appear in constant subexpressions; Constant and Shape are read by the importer itself.
FOLDABLE = frozenset(_FOLDERS) | {"Constant", "Shape"}

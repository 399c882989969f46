"""ONNX tensors to numpy, trusting nothing the file says about them.

`onnx.numpy_helper.to_array` is not used: it reads external files, accepts negative dimensions as
"infer" and leaves the size check to numpy (see `reference/onnx-integer-export.md`, section 6).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from deployq.errors import ModelError

Array = npt.NDArray[Any]

#: Element type -> (field that holds the values if raw_data does not, little-endian numpy type).
_STORAGE: dict[int, tuple[str, str]] = {
    TensorProto.FLOAT: ("float_data", "<f4"),
    TensorProto.DOUBLE: ("double_data", "<f8"),
    TensorProto.FLOAT16: ("int32_data", "<u2"),
    TensorProto.BFLOAT16: ("int32_data", "<u2"),
    TensorProto.INT8: ("int32_data", "<i1"),
    TensorProto.UINT8: ("int32_data", "<u1"),
    TensorProto.INT16: ("int32_data", "<i2"),
    TensorProto.UINT16: ("int32_data", "<u2"),
    TensorProto.INT32: ("int32_data", "<i4"),
    TensorProto.INT64: ("int64_data", "<i8"),
    TensorProto.UINT32: ("uint64_data", "<u4"),
    TensorProto.UINT64: ("uint64_data", "<u8"),
    TensorProto.BOOL: ("int32_data", "?"),
}

#: Element types that count as real numbers; constants of these types become float32.
FLOAT_TYPES = frozenset((TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16))


def type_name(element_type: int) -> str:
    """Name of an ONNX element type, also of one the library does not know."""
    known = element_type in TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(element_type)) if known else f"type {element_type}"


def tensor_array(tensor: TensorProto, where: str) -> Array:
    """The values of a tensor; every float type becomes float32, integers keep their type.

    Args:
        tensor: an initialiser or the value of a Constant node.
        where: for messages.

    Raises:
        ModelError: external data, a negative dimension, a type that is not supported, more or
            fewer values than the dimensions say, or values that are not finite.
    """
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        raise ModelError(
            "the model keeps weights in another file",
            where=where,
            why="files named by a model are not opened",
            hint="save one file: onnx.save(..., save_as_external_data=False) or torch external_data=False",
        )
    if tensor.data_type not in _STORAGE or tensor.HasField("segment"):
        raise ModelError(f"constants of type {type_name(tensor.data_type)} are not supported", where=where)
    dims = tuple(tensor.dims)
    if any(size < 0 for size in dims):
        raise ModelError(f"negative dimension in {dims}", where=where)
    flat = _values(tensor, prod(dims), where)
    return _finite(_as_numbers(flat, tensor.data_type).reshape(dims), where)


def _values(tensor: TensorProto, count: int, where: str) -> Array:
    """The stored values, whose number is checked before anything is allocated from it."""
    field, storage = _STORAGE[tensor.data_type]
    dtype = np.dtype(storage)
    if tensor.HasField("raw_data"):
        found, expected, unit = len(tensor.raw_data), count * dtype.itemsize, "bytes"
    else:
        found, expected, unit = len(getattr(tensor, field)), count, "values"
    if found != expected:
        why = f"dimensions {tuple(tensor.dims)} need {expected} {unit}, the file has {found}"
        raise ModelError("a constant does not have the size it claims", where=where, why=why)
    if unit == "bytes":
        return np.frombuffer(tensor.raw_data, dtype=dtype)
    values: Array = np.array(getattr(tensor, field)).astype(dtype)
    return values


def _as_numbers(flat: Array, element_type: int) -> Array:
    if element_type == TensorProto.BFLOAT16:
        return (flat.astype(np.uint32) << 16).view(np.float32)
    if element_type == TensorProto.FLOAT16:
        return flat.view(np.float16).astype(np.float32)
    if element_type == TensorProto.DOUBLE:
        with np.errstate(over="ignore"):  # an overflow is reported by _finite
            return flat.astype(np.float32)
    return flat


def _finite(values: Array, where: str) -> Array:
    """Refuse NaN, and infinity except in scalars (an infinite Clip bound is legitimate)."""
    if values.dtype.kind == "f":
        bad = np.isnan(values) if values.size == 1 else ~np.isfinite(values)
        if np.any(bad):
            raise ModelError(
                f"{np.count_nonzero(bad)} of {bad.size} values are NaN, infinite or beyond float32",
                where=where,
            )
    return values

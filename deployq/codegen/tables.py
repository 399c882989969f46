"""Constant tables as C text."""

from __future__ import annotations

import numpy as np

from deployq.ops.base import Array

_TYPES = {
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
}
_LINE = 104


def c_type(table: Array) -> str:
    """C type of the elements of a table."""
    return _TYPES[table.dtype.name]


def c_table(table: Array) -> str:
    """The elements as lines of a C initialiser, indented by four spaces."""
    if table.dtype.kind == "u":
        digits = table.dtype.itemsize * 2
        suffix = "u" if table.dtype.itemsize == 4 else ""
        words = [f"0x{int(value):0{digits}x}{suffix}" for value in table]
    else:
        words = [_signed(int(value)) for value in table]
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) + 6 > _LINE:
            lines.append("")
        lines[-1] += f" {word},"
    return "\n".join("   " + line for line in lines)


def _signed(value: int) -> str:
    """A decimal literal; the lowest int32 has none of its own in C."""
    return str(value) if value > -(2**31) else "(-2147483647 - 1)"


def table_bytes(table: Array) -> bytes:
    """The bytes of a table as they lie in flash (little-endian)."""
    return np.ascontiguousarray(table, dtype=table.dtype.newbyteorder("<")).tobytes()

"""Readers of single configuration values, from TOML and Python (typed) and from the command line (text).

Each takes the value and the directory relative paths start from, and raises ValueError with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

Reader = Callable[[Any, Path], Any]

_UNITS = {"": 1, "K": 2**10, "KB": 2**10, "KIB": 2**10, "M": 2**20, "MB": 2**20, "MIB": 2**20}
_ARRAY_PIECE = r".+\.np[yz](?::[^,/\\]+)?"
_TWO_ARRAYS = re.compile(rf"({_ARRAY_PIECE}),({_ARRAY_PIECE})")
_KEYED_ARRAY = re.compile(r"(.+\.npz)(:[^/\\]+)")


def read_text(value: Any, base: Path) -> str:
    """A text."""
    if not isinstance(value, str) or not value:
        raise ValueError("a text is expected")
    if "\0" in value:
        raise ValueError("it contains a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it is not valid UTF-8, which build.toml has to be") from None
    return value


def read_texts(value: Any, base: Path) -> tuple[str, ...]:
    """A text, or a list of texts."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise ValueError("a list of texts is expected")
    return tuple(read_text(item, base) for item in items)


def read_bits(value: Any, base: Path) -> str:
    """A weight width; TOML may give it as a number."""
    return read_text(str(value) if type(value) is int else value, base)


def read_flag(value: Any, base: Path) -> bool:
    """A truth value."""
    if not isinstance(value, bool):
        raise ValueError("true or false is expected")
    return value


def read_integer(value: Any, base: Path) -> int:
    """A whole number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value):
        return int(value)
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError("a whole number is expected")
    return int(value)


def read_number(value: Any, base: Path) -> float:
    """A number, or a quotient in text such as "1/255"."""
    text, slash, divisor = value.partition("/") if isinstance(value, str) else (value, "", "")
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(text) / float(divisor) if slash else float(text)
    except (ValueError, TypeError, ZeroDivisionError):
        raise ValueError('a number is expected, or a quotient such as "1/255"') from None


def read_numbers(value: Any, base: Path) -> tuple[float, ...]:
    """One number, a list, or text with commas; one value or one per channel."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1).tolist()
    items = value.split(",") if isinstance(value, str) else value
    items = items if isinstance(items, (list, tuple)) else [items]
    if not items:
        raise ValueError("at least one number is expected")
    return tuple(read_number(item, base) for item in items)


def read_bytes(value: Any, base: Path) -> int:
    """A size in bytes: 65536, "64K" or "1M" (powers of two)."""
    match = re.fullmatch(r"(\d{1,12})\s*([a-z]*)", str(value).strip(), re.IGNORECASE)
    if type(value) not in (int, str) or not match or match[2].upper() not in _UNITS:
        raise ValueError('a size is expected, e.g. 65536, "64K" or "1M"')
    return int(match[1]) * _UNITS[match[2].upper()]


def read_path(value: Any, base: Path) -> Path:
    """A path, relative to the configuration file."""
    return base / read_text(str(value) if isinstance(value, Path) else value, base)


def read_directory(value: Any, base: Path) -> Path:
    """A directory to write; the current one by its full name, since it is replaced by renaming."""
    path = read_path(value, base)
    return path if path.name not in ("", "..") else path.resolve()


def read_data(value: Any, base: Path) -> str:
    """A data specification; its paths are relative to the configuration file."""
    text = read_text(str(value) if isinstance(value, Path) else value, base)
    return map_data_paths(text, lambda path: str(base / path))


def map_data_paths(spec: str, change: Callable[[str], str]) -> str:
    """Change the paths in a data specification.

    Args:
        spec: `file.npy`, `file.npz:keys`, two of them separated by a comma, or a folder.
        change: old path to new path.
    """
    pair = _TWO_ARRAYS.fullmatch(spec)
    if pair:
        return ",".join(map_data_paths(piece, change) for piece in pair.groups())
    keyed = _KEYED_ARRAY.fullmatch(spec)
    return change(keyed[1]) + keyed[2] if keyed else change(spec)


def toml_value(value: Any) -> str:
    """A text, number, truth value or list of these in TOML; reading it back gives the same value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    # JSON escapes what TOML's basic strings must escape, except DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")

"""Reports as JSON and back: fixed key order, no timestamps, so that equal reports give equal bytes."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from deployq.errors import UsageError
from deployq.report.model import SCHEMA_VERSION

T = TypeVar("T")
_MISSING = object()


def to_document(report: Any) -> dict[str, Any]:
    """A report dataclass as plain Python values under a `schema_version`, ready for `json.dumps`."""
    document = {"schema_version": SCHEMA_VERSION}
    document.update(_plain(report))
    return document


def dump_json(document: dict[str, Any]) -> str:
    """A document as text; indented, with a final newline.

    Raises:
        ValueError: it contains NaN or infinity, which JSON cannot express.
    """
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_document(kind: type[T], document: Any, where: str = "report.json") -> T:
    """The report a document was made of.

    Args:
        kind: class of the report, e.g. `Report`.
        document: what `json.loads` returned.
        where: its file, for messages.

    Raises:
        UsageError: the document is of another schema version or does not have the report's fields.
    """
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise UsageError(
            "this is not a report of this version of deployq",
            where=where,
            why=f"schema_version is {version!r}, expected {SCHEMA_VERSION}",
            hint="build again",
        )
    try:
        result: T = _read(kind, document)
        return result
    except ValueError as error:
        raise UsageError("malformed report", where=where, why=str(error), hint="build again") from error


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {_key(field.name): _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _key(name: str) -> str:
    """JSON key of a field; a trailing underscore only avoids a Python name."""
    return name.removesuffix("_")


def _read(kind: Any, value: Any) -> Any:
    if isinstance(kind, UnionType):
        return _read_union(get_args(kind), value)
    if is_dataclass(kind):
        return _read_dataclass(kind, value)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, found {value!r}")
        return tuple(_read(get_args(kind)[0], item) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, found {value!r}")
    return value


def _read_union(kinds: tuple[Any, ...], value: Any) -> Any:
    problems = []
    for kind in kinds:
        try:
            return _read(kind, value)
        except ValueError as error:
            if kind is not NoneType:
                problems.append(str(error))
    raise ValueError("; ".join(problems))


def _read_dataclass(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {value!r}")
    hints = get_type_hints(kind)
    arguments = {}
    for field in fields(kind):
        item = value.get(_key(field.name), _MISSING)
        if item is _MISSING:
            raise ValueError(f"{_key(field.name)} is missing")
        try:
            arguments[field.name] = _read(hints[field.name], item)
        except ValueError as error:
            raise ValueError(f"{_key(field.name)}: {error}") from error
    return kind(**arguments)

"""Targets: the processor cores deployq generates code for, described in `targets/*.toml`.

A target file is data only. Adding a core is adding a file; nothing else lists them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployq.errors import DeployqError, UsageError
from deployq.resources import resource_directory

_ADDRESS_LIMIT = 2**32


@dataclass(frozen=True)
class MemoryRegion:
    """A memory of an emulated machine: first address and length in bytes."""

    origin: int
    bytes: int


@dataclass(frozen=True)
class Machine:
    """An emulated board.

    Attributes:
        name: machine name of qemu-system-arm.
        flash: where code and constants are placed.
        ram: where data, arena and stack are placed.
        vectors: where the vector table must be, if it is not the start of `flash`.
    """

    name: str
    flash: MemoryRegion
    ram: MemoryRegion
    vectors: MemoryRegion | None


@dataclass(frozen=True)
class Target:
    """A processor core.

    Attributes:
        name: name on the command line, the stem of the file.
        description: one line for `deployq targets`.
        architecture: Arm architecture profile, e.g. "armv7e-m"; "host" for the host.
        toolchain_prefix: put before gcc, size and addr2line, e.g. "arm-none-eabi-".
        compiler_flags: gcc flags that select the core.
        features: instruction set extensions kernels may use, e.g. {"dsp", "mve"}.
        arena_alignment: alignment of the arena in bytes, a power of two.
        machines: emulated boards, tried in this order until the program fits; empty for the host.
    """

    name: str
    description: str
    architecture: str
    toolchain_prefix: str
    compiler_flags: tuple[str, ...]
    features: frozenset[str]
    arena_alignment: int
    machines: tuple[Machine, ...]

    @property
    def is_host(self) -> bool:
        """Whether the code runs on the machine deployq runs on."""
        return self.architecture == "host"


def target_names() -> tuple[str, ...]:
    """Names of all targets, sorted."""
    return tuple(sorted(path.stem for path in resource_directory("targets").glob("*.toml")))


def load_target(name: str) -> Target:
    """Load the target of that name.

    Raises:
        UsageError: there is no such target.
        DeployqError: its file is malformed.
    """
    if name not in target_names():
        raise UsageError(
            f'unknown target "{name}"', where="--target", hint=f"one of: {', '.join(target_names())}"
        )
    return read_target(resource_directory("targets") / f"{name}.toml")


def read_target(path: Path) -> Target:
    """Read and check one target file.

    Raises:
        DeployqError: the file is not TOML, or a field is missing, unknown or out of range.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DeployqError("cannot read a target file", where=str(path), why=str(error)) from error
    fields = _Fields(table, str(path))
    target = Target(
        name=path.stem,
        description=fields.text("description"),
        architecture=fields.text("architecture"),
        toolchain_prefix=fields.text("toolchain_prefix", may_be_empty=True),
        compiler_flags=fields.texts("compiler_flags"),
        features=frozenset(fields.texts("features")),
        arena_alignment=fields.integer("arena_alignment", low=1, high=4096),
        machines=tuple(_machine(machine) for machine in fields.tables("machines")),
    )
    fields.reject_unknown()
    if target.arena_alignment & (target.arena_alignment - 1):
        raise fields.error("arena_alignment", "is not a power of two")
    if not target.is_host and not target.machines:
        raise fields.error("machines", "is empty: a target needs a machine to be verified on")
    return target


def _machine(fields: _Fields) -> Machine:
    machine = Machine(
        name=fields.text("name"),
        flash=_region(fields.table("flash")),
        ram=_region(fields.table("ram")),
        vectors=_region(fields.table("vectors")) if "vectors" in fields else None,
    )
    fields.reject_unknown()
    return machine


def _region(fields: _Fields) -> MemoryRegion:
    origin = fields.integer("origin", low=0, high=_ADDRESS_LIMIT - 1)
    region = MemoryRegion(origin, fields.integer("bytes", low=1, high=_ADDRESS_LIMIT - origin))
    fields.reject_unknown()
    return region


class _Fields:
    """Checked access to a TOML table; every error names the file and the field."""

    def __init__(self, table: Mapping[str, Any], where: str) -> None:
        self._table = table
        self._where = where
        self._seen: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def error(self, key: str, problem: str) -> DeployqError:
        return DeployqError(f'target field "{key}" {problem}', where=self._where)

    def reject_unknown(self) -> None:
        for key in self._table:
            if key not in self._seen:
                raise self.error(key, "is unknown")

    def text(self, key: str, *, may_be_empty: bool = False) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not (value or may_be_empty):
            raise self.error(key, "must be a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, "must be a list of texts")
        return tuple(value)

    def integer(self, key: str, *, low: int, high: int) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, f"must be an integer from {low} to {high}")
        return value

    def table(self, key: str) -> _Fields:
        value = self._get(key)
        if not isinstance(value, dict):
            raise self.error(key, "must be a table")
        return _Fields(value, f"{self._where}, {key}")

    def tables(self, key: str) -> tuple[_Fields, ...]:
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "must be a list of tables")
        return tuple(_Fields(item, f"{self._where}, {key} {index}") for index, item in enumerate(value))

    def _get(self, key: str) -> Any:
        if key not in self._table:
            raise self.error(key, "is missing")
        self._seen.add(key)
        return self._table[key]

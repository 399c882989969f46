"""The file a configuration is read from.

`deployq.toml`, or the table `[tool.deployq]` of `pyproject.toml`, in the current directory; options of the
command line override the file. Paths in a file are relative to that file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deployq.alphabet import alphabet, default_alphabet
from deployq.config import AUTO_BITS, BuildConfig, option_name
from deployq.config_values import Reader
from deployq.errors import UsageError
from deployq.output import check_inputs_stay
from deployq.resources import resource_directory

CONFIG_FILE = "deployq.toml"


def load_config(
    options: Mapping[str, Any], *, config_file: Path | None = None, directory: Path = Path()
) -> BuildConfig:
    """The configuration of a build started in `directory`.

    Args:
        options: values from the command line by field name; they override the file's.
        config_file: TOML file to read; by default `deployq.toml` or `pyproject.toml` in
            `directory`, and, without those and without a model, that of the digits example.
        directory: current directory.

    Raises:
        UsageError: the file cannot be read, a key or value is wrong, or the output would replace the file.
    """
    path, table = _find_table(options, config_file, directory)
    values = _read_table(table, path.parent, where=str(path))
    values_given = _read_table(options, Path(), where="")
    # A width from the command line replaces the file's alphabet and the other way round.
    if "bits" in values_given:
        values.pop("alphabet", None)
    config = BuildConfig(**{**values, **values_given})
    check_inputs_stay(config.output, [path], rewritten=("build.toml",))
    return config


def example_config() -> Path:
    """Configuration file of the bundled digits example."""
    return resource_directory("examples") / "digits" / CONFIG_FILE


def _find_table(
    options: Mapping[str, Any], config_file: Path | None, directory: Path
) -> tuple[Path, Mapping[str, Any]]:
    """A configuration file and its settings; an empty table if there is none."""
    if config_file is not None:
        return config_file, _settings(config_file)
    own, shared = directory / CONFIG_FILE, directory / "pyproject.toml"
    if own.is_file():
        return own, _settings(own)
    if shared.is_file() and (table := _settings(shared)):
        return shared, table
    if options.get("model") is None:
        return example_config(), _settings(example_config())
    return own, {}


def _settings(path: Path) -> Mapping[str, Any]:
    """The settings in a TOML file; those of a `pyproject.toml` stand in [tool.deployq]."""
    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError("cannot read the configuration", where=str(path), why=str(error)) from error
    if path.name == "pyproject.toml":
        tool = table.get("tool", {})
        table = tool.get("deployq", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise UsageError("[tool.deployq] is not a table", where=str(path))
    return table


def _read_table(table: Mapping[str, Any], base: Path, where: str) -> dict[str, Any]:
    """Values by field name, checked for type; ranges are checked by `BuildConfig`."""
    readers: dict[str, Reader] = {item.name: item.metadata["reader"] for item in fields(BuildConfig)}
    values = {}
    for key, value in table.items():
        place = f"{where}, {key}" if where else option_name(key)
        if key not in readers:
            near = get_close_matches(key, readers, n=1, cutoff=0)
            raise UsageError(f"unknown setting {key!r}", where=where, hint=f"did you mean {near[0]!r}?")
        try:
            values[key] = readers[key](value, base)
        except ValueError as error:
            raise UsageError(f"{key} is {value!r}", where=place, why=str(error)) from error
    _check_agreement(values, where)
    return values


def _check_agreement(values: Mapping[str, Any], where: str) -> None:
    """Refuse a width and an alphabet that contradict each other."""
    if "bits" in values and "alphabet" in values:
        if values["bits"] == AUTO_BITS:
            raise UsageError("an alphabet leaves no widths to choose", where=where or "--alphabet")
        width, named = default_alphabet(values["bits"]), alphabet(values["alphabet"])
        if width.bits != named.bits or (width.name == "ternary") != (named.name == "ternary"):
            raise UsageError(
                f"the alphabet {named.name} does not have {values['bits']} bits",
                where=where or "--alphabet",
                hint="give only one of bits and alphabet",
            )

"""Where the command line writes: one result on stdout, progress and errors on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from deployq.errors import DeployqError
from deployq.report import SCHEMA_VERSION, dump_json, printable, render_listing

Progress = Callable[[str], None]
Row = Mapping[str, str | list[str]]


class Output:
    """The two streams.

    Args:
        as_json: print the result, or the error, as one JSON document.
        quiet: no progress.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self._as_json = as_json
        self._quiet = quiet

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A function that shows the current step: a spinner on a terminal, else a line per step."""
        console = Console(stderr=True, highlight=False)
        if self._quiet:
            yield lambda message: None
        elif console.is_terminal:
            with console.status("deployq") as status:
                yield lambda message: status.update(Text(printable(message)))
        else:
            yield lambda message: print(printable(message), file=sys.stderr, flush=True)

    def result(self, document: dict[str, Any], text: str) -> None:
        """Print the result of a command in the form the user asked for."""
        sys.stdout.write(dump_json(document) if self._as_json else text)

    def listing(self, key: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Print a table; in JSON a list of objects under `key`."""
        cells = [
            tuple(value if isinstance(value, str) else ", ".join(value) for value in row.values())
            for row in rows
        ]
        document = {"schema_version": SCHEMA_VERSION, key: list(rows)}
        self.result(document, render_listing(tuple(columns), cells))

    def error(self, error: DeployqError) -> None:
        """Print an error: for people on stderr, and with JSON also as the document on stdout."""
        lines = "\n".join(map(printable, f"deployq: {error}".splitlines()))
        print(lines, file=sys.stderr)
        if self._as_json:
            details = {
                "what": error.what,
                "where": error.where,
                "why": error.why,
                "hint": error.hint,
                "exit_code": int(error.exit_code),
            }
            sys.stdout.write(dump_json({"schema_version": SCHEMA_VERSION, "error": details}))

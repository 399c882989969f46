"""Where the command line writes: one result on stdout, progress and errors on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from deployq.errors import DeployqError, UsageError
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
            yield lambda message: _say(printable(message))

    def result(self, document: dict[str, Any], text: str) -> None:
        """Print the result of a command in the form the user asked for.

        Raises:
            UsageError: stdout cannot be written, e.g. because the disk is full.
        """
        with _writing():
            sys.stdout.write(dump_json(document) if self._as_json else text)
            sys.stdout.flush()

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
        _say(lines)
        if self._as_json:
            details = {
                "what": error.what,
                "where": error.where,
                "why": error.why,
                "hint": error.hint,
                "exit_code": int(error.exit_code),
            }
            with suppress(UsageError), _writing():  # an error that is shown already
                sys.stdout.write(dump_json({"schema_version": SCHEMA_VERSION, "error": details}))
                sys.stdout.flush()


def open_standard_streams() -> None:
    """Open those of the three standard streams that the caller has closed; nobody reads them.

    Files opened later would otherwise take their numbers, and be written by whoever prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


@contextmanager
def _writing() -> Iterator[None]:
    """Around writes to stdout; a reader who stops early has what it wanted, anything else is an error."""
    try:
        yield
    except BrokenPipeError:
        _give_up(sys.stdout)
    except OSError as error:
        _give_up(sys.stdout)
        raise UsageError("the result cannot be written", where="stdout", why=str(error)) from error


def _say(text: str) -> None:
    """A line on stderr; that nobody can read it is no reason to stop."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Let what a stream still holds, which Python writes at exit, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

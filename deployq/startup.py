"""The first thing the package imports: the command line's behaviour while everything else is loaded."""

from __future__ import annotations

import signal
import sys
from pathlib import Path


def is_command_line() -> bool:
    """Whether this process is `deployq` or `python -m deployq`, not a program that imports the package."""
    return Path(sys.argv[0] if sys.argv else "").name == "deployq" or "deployq" in _module(sys.orig_argv)


def _module(arguments: list[str]) -> list[str]:
    """The name after -m, as a list of at most one."""
    before = [place for place, word in enumerate(arguments) if word == "-m"][:1]
    return [word for place in before for word in arguments[place + 1 : place + 2]]


def end_quietly_while_loading() -> None:
    """Let Ctrl-C end the command without a traceback until `deployq.cli.entry_point` takes over."""
    if is_command_line() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

"""The one error type users see, and the exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of `deployq`; stable, scripts rely on them."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    MODEL = 3
    BUDGET = 4
    VERIFICATION = 5
    TOOL_MISSING = 6
    ACCURACY = 7


class DeployqError(Exception):
    """An error a user can act on.

    Args:
        what: what went wrong, one sentence.
        where: file, option, or graph node it concerns ("" when there is no such place).
        why: the reason, if it is not obvious from `what`.
        hint: what to try next.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.why = why
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where", self.where), ("why", self.why), ("try", self.hint)):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)


class UsageError(DeployqError):
    """A wrong option, configuration value, file name or calibration shape."""

    exit_code = ExitCode.USAGE


class ModelError(DeployqError):
    """A model that is unsupported, malformed or unsafe to load."""

    exit_code = ExitCode.MODEL


class BudgetError(DeployqError):
    """The result does not fit the flash or RAM the user allows."""

    exit_code = ExitCode.BUDGET


class VerificationError(DeployqError):
    """Two executors of the same integer network disagree."""

    exit_code = ExitCode.VERIFICATION


class ToolMissingError(DeployqError):
    """A compiler or emulator is missing and the user asked for strictness."""

    exit_code = ExitCode.TOOL_MISSING


class AccuracyError(DeployqError):
    """The quantized accuracy is below what the user demands."""

    exit_code = ExitCode.ACCURACY

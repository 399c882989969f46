"""Output directories: written aside, renamed when complete, never left half-written."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployq.errors import UsageError

MARKER = "report.json"

#: All that deployq puts into an output directory.
_OWN_FILES = frozenset(
    (MARKER, "report.html", "model.onnx", "model_float_io.onnx", "build.toml", "vectors.npz", "firmware")
)


def check_replaceable(output: Path, *, force: bool) -> None:
    """Refuse early to overwrite something that deployq did not write.

    Raises:
        UsageError: `output` is a file, or a non-empty directory that deployq did not write.
    """
    if output.is_dir() and any(output.iterdir()) and not force and not _is_own(output):
        raise UsageError(
            "the output directory is not empty and was not written by deployq",
            where=str(output),
            hint="choose another directory with -o, or pass --force to replace it",
        )
    if output.exists() and not output.is_dir():
        raise UsageError("the output is a file, not a directory", where=str(output), hint="choose another -o")


def _is_own(output: Path) -> bool:
    """Whether a directory holds a report of deployq and nothing that deployq does not write."""
    if {path.name for path in output.iterdir()} - _OWN_FILES:
        return False
    try:
        report = json.loads((output / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(report, dict) and {"schema_version", "tool_version"} <= report.keys()


@contextmanager
def staged_directory(output: Path) -> Iterator[Path]:
    """A directory beside `output` that takes its place when the block ends without an exception.

    Raises:
        UsageError: the parent directory cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    except OSError as error:
        raise UsageError("cannot write the output directory", where=str(output), why=str(error)) from error
    try:
        yield staging
        staging.chmod(0o755)
        _replace(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(staging: Path, output: Path) -> None:
    if not output.exists():
        staging.rename(output)
        return
    aside = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-old-"))
    try:
        previous = output.rename(aside / output.name)
        try:
            staging.rename(output)
        except OSError:
            previous.rename(output)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)

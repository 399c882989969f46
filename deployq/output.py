"""Output directories: written aside, renamed when complete, never left half-written."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployq.errors import UsageError

#: A directory with this file was written by deployq and may be replaced.
MARKER = "report.json"


def check_replaceable(output: Path, *, force: bool) -> None:
    """Refuse early to overwrite something that deployq did not write.

    Raises:
        UsageError: `output` is a file, or a non-empty directory without a report of deployq.
    """
    if output.is_dir() and any(output.iterdir()) and not (output / MARKER).is_file() and not force:
        raise UsageError(
            "the output directory is not empty and was not written by deployq",
            where=str(output),
            hint="choose another directory with -o, or pass --force to replace it",
        )
    if output.exists() and not output.is_dir():
        raise UsageError("the output is a file, not a directory", where=str(output), hint="choose another -o")


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

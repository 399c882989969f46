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

#: All that a command puts into its output directory; first the document that tells whose it is.
BUILD_FILES = (
    MARKER,
    *("report.html", "model.onnx", "model_float_io.onnx", "build.toml", "vectors.npz", "firmware"),
)
QUANTIZATION_FILES = ("quantization.json", "quantization.txt", "model.onnx")
COMPARISON_FILES = ("comparison.json", "comparison.txt", "comparison.png")


def check_replaceable(output: Path, *, force: bool, files: tuple[str, ...] = BUILD_FILES) -> None:
    """Refuse early to overwrite something that the same command did not write.

    Args:
        output: directory to be written.
        force: replace it whatever it holds.
        files: what the command writes, its document first: a comparison never replaces a firmware.

    Raises:
        UsageError: `output` is a file, or a non-empty directory that the command did not write.
    """
    if output.is_dir() and any(output.iterdir()) and not force and not _is_own(output, files):
        raise UsageError(
            "the output directory is not empty and was not written by deployq for this purpose",
            where=str(output),
            hint="choose another directory with -o, or pass --force to replace it",
        )
    if output.exists() and not output.is_dir():
        raise UsageError("the output is a file, not a directory", where=str(output), hint="choose another -o")


def _is_own(output: Path, files: tuple[str, ...]) -> bool:
    """Whether a directory holds a document of deployq and nothing that the command does not write."""
    if {path.name for path in output.iterdir()} - set(files):
        return False
    try:
        report = json.loads((output / files[0]).read_text(encoding="utf-8"))
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

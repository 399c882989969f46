"""Output directories: written aside, renamed when complete, never left half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deployq.errors import DeployqError, UsageError

MARKER = "report.json"

#: All files that a command puts into its output directory; first the document that tells whose it is,
#: "{name}" is the name in that document.
BUILD_FILES = (
    MARKER,
    *("report.html", "model.onnx", "model_float_io.onnx", "build.toml", "vectors.npz"),
    *(f"firmware/{name}" for name in ("CMakeLists.txt", "main.c", "dq_kernels.c", "dq_kernels.h")),
    *(f"firmware/{{name}}{end}" for end in (".c", ".h", "_weights.c", "_weights.h")),
)
QUANTIZATION_FILES = ("quantization.json", "quantization.txt", "model.onnx")
COMPARISON_FILES = ("comparison.json", "comparison.txt", "comparison.png")

#: What a path or a data specification of an input may be.
Input = str | Path | None

#: Begins the names of the directories that are written beside an output directory.
STAGING_PREFIX = ".deployq-"

#: Times that another build may take the place first before this one gives up.
_ATTEMPTS = 100

#: A directory or a file appeared where one was to be renamed to.
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)

#: Writing failed for want of space or of a disk that takes it, which no program can help.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@dataclass(frozen=True)
class _Rules:
    """What may be replaced: see `check_replaceable`."""

    output: Path
    force: bool
    files: tuple[str, ...]

    def check(self, found: Path) -> None:
        """Refuse what is, or was, at the place of the output, now at `found`."""
        if found.is_symlink() or not found.is_dir():
            raise UsageError(
                "the output is a file, not a directory", where=str(self.output), hint="choose another -o"
            )
        why = "" if self.force or not any(found.iterdir()) else _foreign(found, self.files)
        if why:
            raise UsageError(
                "the output directory is not empty and was not written by deployq for this purpose",
                where=str(self.output),
                why=why,
                hint="choose another directory with -o, or pass --force to replace it",
            )


def check_replaceable(
    output: Path, *, force: bool, files: tuple[str, ...] = BUILD_FILES, inputs: Iterable[Input] = ()
) -> Path:
    """Refuse early to overwrite something that the same command did not write, or its own inputs.

    Args:
        output: directory to be written; a symbolic link means the directory it leads to.
        force: replace it whatever it holds, except an input.
        files: what the command writes, its document first: a comparison never replaces a firmware.
        inputs: paths and data specifications that must stay.

    Returns:
        The directory without symbolic links.

    Raises:
        UsageError: `output` is a file or a mount point, a link that leads nowhere or a name that cannot be
            used, holds an input, or is a non-empty directory that the command did not write.
    """
    real = _resolved(output)
    try:
        if output.is_symlink() and not os.path.lexists(real):
            raise ValueError(f"it is a symbolic link to {real}, which does not exist")
        if os.path.ismount(real):
            raise ValueError("it is a mount point and cannot be replaced; name a directory inside it")
        check_inputs_stay(output, inputs)
        with suppress(FileNotFoundError):
            os.stat(real)
            _Rules(output, force, files).check(real)
    except (OSError, ValueError) as error:
        raise _unusable(output, error) from error
    return real


def _resolved(output: Path) -> Path:
    """The path without symbolic links.

    Raises:
        UsageError: a name that a file system, build.toml or a compiler cannot take.
    """
    try:
        real = Path(os.path.realpath(output))
        str(real).encode()  # build.toml is UTF-8
        if {"\n", "\r"} & set(str(real)):
            raise ValueError("compilers cannot use a path with a line break")
    except (OSError, ValueError) as error:
        raise _unusable(output, error) from error
    return real


def _unusable(output: Path, error: Exception) -> UsageError:
    return UsageError(
        "the output directory cannot be used", where=str(output), why=str(error), hint="choose another -o"
    )


def check_inputs_stay(output: Path, inputs: Iterable[Input], rewritten: tuple[str, ...] = ()) -> None:
    """Refuse an output directory that holds an input, which replacing it would delete.

    Args:
        output: directory to be written.
        inputs: paths and data specifications.
        rewritten: files in the output directory that are written again with the same meaning.

    Raises:
        UsageError: one of the inputs is, or is within, the output directory.
    """
    real = _resolved(output)
    for path in (path for given in inputs if given is not None for path in _paths(str(given))):
        parent, name = os.path.split(os.path.abspath(path))
        for place in (Path(os.path.realpath(path)), Path(os.path.realpath(parent), name)):
            if real in (place, *place.parents) and place not in {real / file for file in rewritten}:
                raise UsageError(
                    "the output directory holds an input, which would be deleted",
                    where=str(output),
                    why=f"the input is {path}",
                    hint="choose another directory with -o",
                )


def _paths(spec: str) -> list[str]:
    """The files and folders a data specification may mean, see `deployq.data`, of which any that exist."""
    commas = [index for index, character in enumerate(spec) if character == ","]
    pieces = [spec, *(spec[:index] for index in commas), *(spec[index + 1 :] for index in commas)]
    pieces += [piece.rpartition(":")[0] for piece in pieces]
    return [path for path in dict.fromkeys(pieces) if path and os.path.lexists(path)]


def _foreign(directory: Path, files: tuple[str, ...]) -> str:
    """Why a directory is not one that a command wrote, "" if it is."""
    try:
        document = json.loads((directory / files[0]).read_text(encoding="utf-8"))
        found = _entries(directory)
    except (OSError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not {"schema_version", "tool_version"} <= document.keys():
        return f"it has no {files[0]} of deployq"
    written = {file.replace("{name}", str(document.get("name", ""))) for file in files}
    written |= {str(PurePosixPath(file).parent) for file in files}
    others = sorted(found - written)
    return f"it also holds {', '.join(others[:3])}{' and others' if others[3:] else ''}" if others else ""


def _entries(directory: Path) -> set[str]:
    """Files and directories at all levels, relative."""

    def refuse(error: OSError) -> None:
        raise error

    return {
        Path(folder, name).relative_to(directory).as_posix()
        for folder, folders, names in os.walk(directory, onerror=refuse)
        for name in (*folders, *names)
    }


@contextmanager
def staged_directory(
    output: Path,
    *,
    force: bool = False,
    files: tuple[str, ...] = BUILD_FILES,
    inputs: Iterable[Input] = (),
) -> Iterator[Path]:
    """A directory beside `output` that takes its place when the block ends without an exception.

    What is at `output` is checked at the beginning, and again when it has been moved away: what appears
    there in between is put back. Errors of the block name `output` where they mean the directory beside it.

    Args:
        output: see `check_replaceable`, as the others.
        force: replace it whatever it holds.
        files: what the command writes.
        inputs: what must stay.

    Raises:
        UsageError: `output` cannot be replaced, the parent directory cannot be written, or the disk is full.
    """
    real = check_replaceable(output, force=force, files=files, inputs=inputs)
    made = [parent for parent in real.parents if not parent.exists()]
    work = None
    try:
        try:
            real.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=real.parent, prefix=STAGING_PREFIX))
            staging = work / "new"
            staging.mkdir()
        except OSError as error:
            raise _unwritable(output, error) from error
        try:
            yield staging
        except DeployqError as error:
            _rename_in(error, str(staging), str(output))
            raise
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            place = str(error.filename or f"{output}, or temporary files in {tempfile.gettempdir()}")
            raise _unwritable(output, error, place.replace(str(staging), str(output))) from error
        try:
            _replace(work, real, _Rules(output, force, files))
        except OSError as error:
            raise _unwritable(output, error) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        for parent in made:  # of a directory that was not written
            with suppress(OSError):
                parent.rmdir()


def _unwritable(output: Path, error: OSError, where: str = "") -> UsageError:
    return UsageError(
        "cannot write the output directory", where=where or str(output), why=error.strerror or str(error)
    )


def _rename_in(error: DeployqError, old: str, new: str) -> None:
    """Let an error speak of a path that the user knows and that will be there."""
    for name in ("what", "where", "why", "hint"):
        setattr(error, name, getattr(error, name).replace(old, new))


def _replace(work: Path, output: Path, rules: _Rules) -> None:
    """Put `work`/new at the place of `output`; again, where another build puts its own there meanwhile."""
    new = work / "new"
    for attempt in range(_ATTEMPTS):
        previous = work / f"old-{attempt}"
        try:
            with suppress(FileNotFoundError):
                output.rename(previous)
            if os.path.lexists(previous):
                rules.check(previous)
            new.rename(output)
            return
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in _OCCUPIED and attempt + 1 < _ATTEMPTS:
                continue
            if os.path.lexists(previous) and os.path.lexists(new):
                _put_back(previous, output)
            raise


def _put_back(previous: Path, output: Path) -> None:
    """Undo the first half of a replacement, never at the cost of what is there now."""
    try:
        previous.rename(output)
    except OSError as error:
        kept = Path(tempfile.mkdtemp(dir=output.parent, prefix=f"{STAGING_PREFIX}kept-")) / "old"
        previous.rename(kept)
        raise UsageError(
            "the output directory changed while it was being replaced",
            where=str(output),
            why=f"what was there before is kept in {kept}",
        ) from error

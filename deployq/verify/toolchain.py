"""Finding and running the external tools: compilers, binutils and the emulator."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deployq.errors import DeployqError, ToolMissingError, UsageError
from deployq.resources import resource_directory

#: Warnings the generated C must not cause, with either compiler.
STRICT_FLAGS: tuple[str, ...] = (
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wsign-conversion",
    "-Wshadow",
    "-Wundef",
    "-Wdouble-promotion",
    "-Wstrict-prototypes",
    "-Werror",
)

DEFAULT_OPTIMISATION = "-O2"

#: What every tool says of a full disk.
_DISK_FULL = os.strerror(errno.ENOSPC)

#: Why an executable that was found cannot be started: it is no program, or its interpreter is missing.
_CANNOT_START = (errno.ENOENT, errno.ENOEXEC, errno.EACCES, errno.EPERM)

_COMPILE_TIMEOUT_SECONDS = 600.0
_TAIL_LINES = 30

#: What compilers and linkers say of a part of the C library that they do not find; the headers are those that
#: the generated C and the harness include.
_WITHOUT_LIBRARY = re.compile(
    r"(?:fatal error: '?|no include path in which to search for )"
    r"(?P<header>(?:std(?:int|def|io|lib)|inttypes|string)\.h)\b"
    r"|cannot (?:find|read spec file) '?(?P<part>S?crt\w+\.o|-lc|nano\.specs)\b"
)

#: Debian package with the C library of each compiler.
_C_LIBRARIES = {"arm-none-eabi-gcc": "libnewlib-arm-none-eabi"}
_HOST_C_LIBRARY = "libc6-dev"

#: Debian package of each tool that is not in its own name.
_PACKAGES = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "arm-none-eabi-size": "binutils-arm-none-eabi",
    "arm-none-eabi-nm": "binutils-arm-none-eabi",
    "arm-none-eabi-addr2line": "binutils-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "size": "binutils",
    "nm": "binutils",
}


def find_tool(name: str) -> Path:
    """Path of an executable on PATH.

    Raises:
        ToolMissingError: it is not installed; says which package has it.
    """
    path = shutil.which(name)
    if path is None:
        package = _PACKAGES.get(name, name)
        raise ToolMissingError(f"{name} is not installed", hint=f"apt-get install {package}")
    return Path(path)


def tool_version(name: str) -> str:
    """First line a tool prints for --version, for the report.

    Args:
        name: on PATH, or a path.

    Raises:
        ToolMissingError: it is not installed, or so broken that it does not even tell its version.
    """
    path = find_tool(name)
    status, output = start_tool([str(path), "--version"], timeout_seconds=30)
    if status != 0 or not output.strip():
        raise ToolMissingError(
            f"{path.name} does not work",
            where=str(path),
            why=f"with --version its exit status is {status}" + ("" if output else ", and it prints nothing"),
            hint=f"apt-get install --reinstall {_PACKAGES.get(path.name, path.name)}",
        )
    return output.strip().splitlines()[0]


def require_working(name: str) -> None:
    """Refuse a tool that is missing or broken, see `tool_version`."""
    tool_version(name)


def tail(text: str) -> str:
    """The last lines of a tool's output, enough to see what went wrong."""
    return "\n".join(text.strip().splitlines()[-_TAIL_LINES:])


def start_tool(
    command: Sequence[str],
    *,
    timeout_seconds: float,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a tool; return its exit status and everything it printed.

    Raises:
        ToolMissingError: it cannot be started.
        DeployqError: it did not end in time.
    """
    name = Path(command[0]).name
    try:
        process = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},  # what is searched for is English
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeployqError(
            f"{name} did not end within {timeout_seconds:g} seconds",
            where=" ".join(command),
            hint="verify fewer samples",
        ) from error
    except OSError as error:
        if error.errno not in _CANNOT_START:
            raise
        raise ToolMissingError(
            f"{name} cannot be started: {error.strerror}", where=command[0], hint="install it again"
        ) from error
    return process.returncode, process.stdout.decode("utf-8", errors="replace")


def run_tool(
    command: Sequence[str],
    what: str,
    *,
    timeout_seconds: float = _COMPILE_TIMEOUT_SECONDS,
    directory: Path | None = None,
) -> str:
    """Run a tool that must succeed; return everything it printed.

    Raises:
        ToolMissingError: it cannot be started, fails whatever it is asked, or lacks the C library.
        UsageError: it fails because the disk is full.
        DeployqError: saying `what`, with the command and the end of its output, if it fails or
            does not end in time.
    """
    status, output = start_tool(command, timeout_seconds=timeout_seconds, directory=directory)
    if status != 0:
        if _DISK_FULL in output:
            raise disk_full(f"{Path(command[0]).name}: {tail(output)}")
        require_working(command[0])
        if missing := _WITHOUT_LIBRARY.search(output):
            raise _without_library(Path(command[0]), missing["header"] or missing["part"])
        raise DeployqError(what, where=" ".join(command), why=f"exit status {status}\n{tail(output)}")
    return output


def _without_library(compiler: Path, missing: str) -> ToolMissingError:
    """The error for a compiler that is installed without the C library."""
    return ToolMissingError(
        f"{compiler.name} is installed without the C library",
        where=str(compiler),
        why=f"it does not find {missing}",
        hint=f"apt-get install {_C_LIBRARIES.get(compiler.name, _HOST_C_LIBRARY)}",
    )


def run_compiler(command: Sequence[str], what: str, product: Path) -> None:
    """Run a compiler or linker that must write a file.

    Raises:
        ToolMissingError: it does not work at all.
        DeployqError: as `run_tool`, or it writes nothing.
    """
    output = run_tool(command, what)
    if not product.is_file() or not product.stat().st_size:
        require_working(command[0])
        raise DeployqError(what, where=" ".join(command), why=f"it wrote no {product.name}\n{tail(output)}")


def disk_full(why: str) -> UsageError:
    """The error for temporary files that cannot be written."""
    return UsageError(
        "there is no space for temporary files",
        where=tempfile.gettempdir(),
        why=why,
        hint="make space, or set TMPDIR",
    )


def compile_objects(
    compiler: str, flags: Sequence[str], sources: Sequence[Path], directory: Path
) -> tuple[Path, ...]:
    """Compile each source with STRICT_FLAGS and `flags` to an object file in `directory`.

    Raises:
        ToolMissingError: the compiler is not installed or does not work.
        DeployqError: a source does not compile, or not without warnings.
    """
    executable = str(find_tool(compiler))
    objects = []
    for source in sources:
        object_file = directory / f"{source.stem}.o"
        command = [executable, *STRICT_FLAGS, *flags, "-c", str(source), "-o", str(object_file)]
        run_compiler(command, f"{source.name} does not compile with {compiler}", object_file)
        objects.append(object_file)
    return tuple(objects)


def harness_directory() -> Path:
    """Directory of the C harness templates."""
    return resource_directory("templates") / "harness"

"""Finding and running the external tools: compilers, binutils and the emulator."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deployq.errors import DeployqError, ToolMissingError
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

_COMPILE_TIMEOUT_SECONDS = 600.0
_TAIL_LINES = 30

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


def is_installed(name: str) -> bool:
    """Whether an executable is on PATH."""
    return shutil.which(name) is not None


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

    Raises:
        ToolMissingError: it is not installed.
    """
    output = run_tool([str(find_tool(name)), "--version"], f"{name} --version failed", timeout_seconds=30)
    return output.splitlines()[0].strip()


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
        DeployqError: it did not end in time.
    """
    try:
        process = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeployqError(
            f"{Path(command[0]).name} did not end within {timeout_seconds:g} seconds",
            where=" ".join(command),
            hint="verify fewer samples",
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
        DeployqError: saying `what`, with the command and the end of its output, if it fails or
            does not end in time.
    """
    status, output = start_tool(command, timeout_seconds=timeout_seconds, directory=directory)
    if status != 0:
        raise DeployqError(what, where=" ".join(command), why=f"exit status {status}\n{tail(output)}")
    return output


def compile_objects(
    compiler: str, flags: Sequence[str], sources: Sequence[Path], directory: Path
) -> tuple[Path, ...]:
    """Compile each source with STRICT_FLAGS and `flags` to an object file in `directory`.

    Raises:
        ToolMissingError: the compiler is not installed.
        DeployqError: a source does not compile, or not without warnings.
    """
    executable = str(find_tool(compiler))
    objects = []
    for source in sources:
        object_file = directory / f"{source.stem}.o"
        command = [executable, *STRICT_FLAGS, *flags, "-c", str(source), "-o", str(object_file)]
        run_tool(command, f"{source.name} does not compile with {compiler}")
        objects.append(object_file)
    return tuple(objects)


def harness_directory() -> Path:
    """Directory of the C harness templates."""
    return resource_directory("templates") / "harness"

"""Compilers and emulators that are missing, broken or unable: told as such, and early where demanded."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deployq.config import BuildConfig
from deployq.config_file import example_config, load_config
from deployq.errors import DeployqError, ExitCode, ToolMissingError, UsageError, VerificationError
from deployq.pipeline import build_from_config
from deployq.targets import load_target
from deployq.verify.host import run_host
from deployq.verify.qemu import EmulationRequest, emulate
from deployq.verify.runner import check_space
from deployq.verify.toolchain import compile_objects, tool_version
from tests.tools import needs_tools
from tests.verify.tiny_library import OUTPUT_SIZE, PREFIX, tiny_samples, write_tiny_library

TARGET = load_target("cortex-m4")
MACHINE = TARGET.machines[0]

#: Where the tests' own programs find a shell and its tools.
_SYSTEM = "PATH=/usr/bin:/bin\n"
_VERSION = 'if [ "$1" = --version ]; then echo "tool 1.0"; exit 0; fi\n'


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Nothing but these programs is installed; "_" in a name stands for "-"."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in programs.items():
        path = folder / name.replace("_", "-")
        path.write_bytes(text.encode())
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def shell(text: str) -> str:
    return f"#!/bin/sh\n{_SYSTEM}{text}\n"


BROKEN = {
    "fails": shell("exit 1"),
    "does nothing": shell("exit 0"),
    "is killed": shell("kill -9 $$"),
    "prints rubbish": shell("head -c 1000 /dev/urandom; exit 1"),
    "lacks its interpreter": "#!/no/such\n",
    "is no program": "\x7fELF rubbish",
}


@pytest.mark.parametrize("program", BROKEN.values(), ids=BROKEN)
def test_a_broken_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    library = write_tiny_library(tmp_path)
    install(tmp_path, monkeypatch, gcc=program)
    with pytest.raises(ToolMissingError, match=r"gcc (does not work|cannot be started)"):
        run_host(library, PREFIX, tiny_samples(1), OUTPUT_SIZE)
    with pytest.raises(ToolMissingError):
        tool_version("gcc")


def test_a_compiler_that_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = write_tiny_library(tmp_path)
    install(tmp_path, monkeypatch, gcc=shell(f"{_VERSION}exit 0"))
    with pytest.raises(DeployqError, match=r"it wrote no tiny\.o") as caught:
        run_host(library, PREFIX, tiny_samples(1), OUTPUT_SIZE)
    assert not isinstance(caught.value, ToolMissingError)


@needs_tools("gcc")
def test_a_compiler_without_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gcc itself, kept from all headers, its own included."""
    library = write_tiny_library(tmp_path)
    gcc = shutil.which("gcc")
    install(tmp_path, monkeypatch, gcc=shell(f'{_VERSION}exec {gcc} -nostdinc "$@"'))
    with pytest.raises(ToolMissingError) as caught:
        run_host(library, PREFIX, tiny_samples(1), OUTPUT_SIZE)
    error = caught.value
    assert error.what == "gcc is installed without the C library" and error.exit_code == ExitCode.TOOL_MISSING
    assert error.where.endswith("/gcc") and error.why.startswith("it does not find st")
    assert error.hint == "apt-get install libc6-dev"


@pytest.mark.parametrize(
    ("compiler", "printed", "package"),
    [
        ("gcc", "k.c:9:10: fatal error: string.h: No such file or directory", "libc6-dev"),
        ("clang", "k.c:9:10: fatal error: 'stdint.h' file not found", "libc6-dev"),
        ("gcc", "stdint.h:9:26: error: no include path in which to search for stdint.h", "libc6-dev"),
        ("gcc", "ld: cannot find Scrt1.o: No such file or directory", "libc6-dev"),
        ("gcc", "ld: cannot find -lc: No such file or directory", "libc6-dev"),
        (
            "arm-none-eabi-gcc",
            "fatal error: cannot read spec file 'nano.specs': No such file or directory",
            "libnewlib-arm-none-eabi",
        ),
        (
            "arm-none-eabi-gcc",
            "/usr/lib/stdint.h:9:16: fatal error: stdint.h: No such file or directory",
            "libnewlib-arm-none-eabi",
        ),
    ],
)
def test_parts_of_the_c_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, printed: str, package: str
) -> None:
    program = shell(f'{_VERSION}echo "{printed}"; exit 1')
    install(tmp_path, monkeypatch, **{compiler.replace("-", "_"): program})
    with pytest.raises(ToolMissingError, match=f"{compiler} is installed without the C library") as caught:
        compile_objects(compiler, (), (tmp_path / "k.c",), tmp_path)
    assert caught.value.hint == f"apt-get install {package}"


def test_a_header_that_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "k.c:9:10: fatal error: board.h: No such file or directory"
    install(tmp_path, monkeypatch, gcc=shell(f'{_VERSION}echo "{printed}"; exit 1'))
    with pytest.raises(DeployqError, match=r"board\.h") as caught:
        compile_objects("gcc", (), (tmp_path / "k.c",), tmp_path)
    assert not isinstance(caught.value, ToolMissingError)


def test_a_compiler_without_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = write_tiny_library(tmp_path)
    install(tmp_path, monkeypatch, gcc=shell(f"{_VERSION}echo 'x.s: No space left on device'; exit 1"))
    with pytest.raises(UsageError, match="no space for temporary files"):
        run_host(library, PREFIX, tiny_samples(1), OUTPUT_SIZE)


@needs_tools("gcc")
def test_a_program_without_results(tmp_path: Path) -> None:
    directory = write_tiny_library(tmp_path, in_layer_0="exit(0);")
    source = directory / "tiny.c"
    source.write_text("#include <stdlib.h>\n" + source.read_text())
    with pytest.raises(VerificationError, match="did not process every sample"):
        run_host(directory, PREFIX, tiny_samples(1), OUTPUT_SIZE)


def _emulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulator: str) -> None:
    install(tmp_path, monkeypatch, qemu_system_arm=emulator)
    request = EmulationRequest(tmp_path, PREFIX, TARGET, OUTPUT_SIZE, "-O2", 60.0, ())
    emulate(request, tmp_path, MACHINE)


@pytest.mark.parametrize("program", BROKEN.values(), ids=BROKEN)
def test_a_broken_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    with pytest.raises(ToolMissingError, match=r"qemu-system-arm (does not work|cannot be started)"):
        _emulate(tmp_path, monkeypatch, program)


_MACHINES = 'if [ "$1" = -machine ]; then echo "@  a machine"; exit 0; fi\n'


@pytest.mark.parametrize(
    ("known", "run", "error", "message"),
    [
        ("microbit", "exit 1", ToolMissingError, f"no machine {MACHINE.name}"),
        # What the emulator can run is the program's own failure, and never a reason to skip.
        (MACHINE.name, "exit 1", VerificationError, "failed on"),
        (MACHINE.name, "exit 0", VerificationError, "without its results"),
        ("microbit", "echo 'deployq: error x'; exit 2", VerificationError, "failed on"),
        ("microbit", "echo 'deployq: stack 0000000000000001'", VerificationError, "without its results"),
    ],
)
def test_an_emulator_that_works(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: str,
    run: str,
    error: type[DeployqError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        _emulate(tmp_path, monkeypatch, shell(_VERSION + _MACHINES.replace("@", known) + run))


@pytest.mark.parametrize(
    "broken", ["gcc", "clang", "qemu_system_arm", "arm_none_eabi_gcc", "arm_none_eabi_nm"]
)
@pytest.mark.parametrize("installed", [False, True])
def test_strict_builds_need_every_tool_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, installed: bool
) -> None:
    names = ["gcc", "clang", "size", "nm", "objdump", "qemu_system_arm"]
    names += [f"arm_none_eabi_{name}" for name in ("gcc", "size", "nm", "objdump")]
    programs = {name: shell(_VERSION) for name in names}
    if installed:
        programs[broken] = shell("exit 1")
    else:
        del programs[broken]
    install(tmp_path, monkeypatch, **programs)
    config = load_config({"output": str(tmp_path / "out"), "strict": True}, config_file=example_config())
    steps: list[str] = []
    with pytest.raises(ToolMissingError, match=broken.replace("_", "-")):
        build_from_config(config, steps.append)
    assert steps == []


@pytest.mark.parametrize("budget", ["flash", "ram"])
def test_budgets_need_the_compiler_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str
) -> None:
    install(tmp_path, monkeypatch)
    options = {"output": str(tmp_path / "out"), budget: "64K"}
    config: BuildConfig = load_config(options, config_file=example_config())
    steps: list[str] = []
    with pytest.raises(ToolMissingError, match="arm-none-eabi-gcc is not installed"):
        build_from_config(config, steps.append)
    assert steps == []


def test_a_harness_that_cannot_write(tmp_path: Path) -> None:
    failure = "deployq: error cannot write a file of the harness (sample -1)"
    check_space(tmp_path, failure)  # there is space: the library may be the reason
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("a small file system needs the right to mount one")
    try:
        with pytest.raises(UsageError, match="no space for temporary files"):
            check_space(tmp_path, failure)
        check_space(tmp_path, "deployq: error the library wrote outside its arena")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)

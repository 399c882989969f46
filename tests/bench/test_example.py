"""The example program with DQ_PROFILE: a table of cycles from a counter, none where there is no counter."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, GeneratedLibrary, write_library
from deployq.targets import load_target, target_names
from deployq.verify.toolchain import STRICT_FLAGS
from tests.codegen.harness import DSP
from tests.integer_networks import residual_network
from tests.tools import needs_tools

#: Advances by 1,000 whenever it is read.
_COUNTER = """
#include <stdint.h>
static uint32_t counter;
static inline uint32_t tick(void)
{
    return counter += 1000u;
}
#define DQ_PROFILE_CYCLES() tick()
"""

#: A core starts at the address in the second word.
_VECTORS = """
extern void _start(void);
typedef void (*handler_t)(void);
__attribute__((section(".vectors"), used)) static const handler_t vectors[2] = {
    (handler_t)0x20010000, _start};
"""

_NO_COUNTER = "no cycle counter: define DQ_PROFILE_CYCLES()\n"


def _write(directory: Path, *, single_file: bool = False) -> GeneratedLibrary:
    graph = residual_network(np.random.default_rng(1), alphabet("ternary"))
    library = generate(graph, DSP, EmitOptions("net", single_file=single_file))
    write_library(library, directory)
    return library


def _run(directory: Path, compiler: str, *flags: str) -> str:
    """Build the profiled example without the file that it includes, run it; what it printed."""
    sources = [str(path) for path in sorted(directory.glob("*.c")) if path.name != "net.c"]
    command = [compiler, *STRICT_FLAGS, "-DDQ_PROFILE", *flags, *sources, "-o", str(directory / "example")]
    subprocess.run(command, check=True)
    return subprocess.run([str(directory / "example")], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("single_file", [False, True])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_host_has_no_counter(single_file: bool, compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    library = _write(tmp_path, single_file=single_file)
    header, *rows, end = _run(tmp_path, compiler).splitlines(keepends=True)
    assert header.split() == ["layer", "function", "MACs", "cycles", "/MAC"]
    assert rows[-1] == _NO_COUNTER
    assert len(rows) == len(library.layers) + 2
    assert end.startswith("largest output: ")


@needs_tools("gcc")
def test_any_counter_can_be_used(tmp_path: Path) -> None:
    library = _write(tmp_path)
    (tmp_path / "counter.h").write_text(_COUNTER)
    printed = _run(tmp_path, "gcc", "-include", str(tmp_path / "counter.h"))
    *rows, total, _ = printed.splitlines()[1:]
    for row, layer in zip(rows, library.layers, strict=True):
        # Between the two hooks of a layer the counter advances once, as between those of the empty pair.
        figures = [str(layer.macs), "0", *(["0.00"] if layer.macs else [])]
        assert row == f"{layer.name:<24} {layer.function:<28} {figures[0]:>10} {figures[1]:>10}" + (
            f" {figures[2]:>7}" if layer.macs else ""
        )
    # Two readings per layer and the one at the end.
    cycles = 1000 * (2 * len(library.layers) + 1)
    hundredths = 100 * cycles // library.macs
    assert total.split() == [
        "all", "net_run", str(library.macs), str(cycles), f"{hundredths // 100}.{hundredths % 100:02}"
    ]  # fmt: skip


@needs_tools("arm-none-eabi-gcc")
@pytest.mark.parametrize("target", [name for name in target_names() if name.startswith("cortex-")])
def test_it_compiles_for_every_core(target: str, tmp_path: Path) -> None:
    _write(tmp_path)
    flags = [*load_target(target).compiler_flags, *STRICT_FLAGS, "-O2", "-DDQ_PROFILE"]
    command = ["arm-none-eabi-gcc", *flags, "-S", str(tmp_path / "main.c"), "-o", "-"]
    assembly = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # 0xE0000000 is the base gcc addresses the counter from; a Cortex-M0+ has none.
    assert ("-536870912" in assembly or "-536866816" in assembly) == (target != "cortex-m0plus")


@pytest.mark.qemu
@needs_tools("arm-none-eabi-gcc", "qemu-system-arm")
def test_it_runs_where_the_debug_unit_is_missing(tmp_path: Path) -> None:
    """The emulator has no counter there; reading it must do no harm."""
    _write(tmp_path)
    (tmp_path / "vectors.c").write_text(_VECTORS)
    sources = [str(tmp_path / name) for name in ("main.c", "net_weights.c", "dq_kernels.c", "vectors.c")]
    flags = ["-mcpu=cortex-m4", "-mthumb", "-O2", "-DDQ_PROFILE", "--specs=rdimon.specs"]  # FPU is off
    program = str(tmp_path / "example.elf")
    subprocess.run(
        ["arm-none-eabi-gcc", *flags, "-Wl,--section-start=.vectors=0", *sources, "-o", program], check=True
    )
    emulator = ["qemu-system-arm", "-M", "mps2-an386", "-kernel", program, "-display", "none"]
    emulator += ["-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native"]
    done = subprocess.run(emulator, capture_output=True, text=True, check=True, timeout=60)
    assert _NO_COUNTER in done.stdout + done.stderr

"""Many generated libraries in one firmware under QEMU: compiled once, every network run on its samples.

The same networks as `harness.py` runs on the host. Arena and output lie between guard bytes that are
checked after every run; input and output are at odd addresses; instructions are counted per network.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import numpy.typing as npt
import pytest

from deployq.layout import to_c_order
from deployq.targets import Target
from deployq.verify.counting import Interval, calibrate
from deployq.verify.toolchain import compile_objects, harness_directory, run_tool, start_tool
from tests.codegen.harness import STRICT, Network, write_program

Int8Array = npt.NDArray[np.int8]

_HARNESS = ("startup.c", "semihosting.c", "counter.c", "counter_asm.S")

_MAIN = """
#include "counter.h"
#include "semihosting.h"

typedef int (*run_function)(void *, const int8_t *, int8_t *);

enum { GUARD_BYTES = 64, GUARD_VALUE = 0xC5 };
static uint8_t arena_memory[@ARENA_BYTES@ + 2 * GUARD_BYTES] __attribute__((aligned(GUARD_BYTES)));
static int8_t input_memory[1 + @INPUT_BYTES@] __attribute__((aligned(8)));
static uint8_t output_memory[1 + @OUTPUT_BYTES@ + 2 * GUARD_BYTES] __attribute__((aligned(8)));
#if defined(__SSP_ALL__)
uintptr_t __stack_chk_guard = 0x5A17C0DEu;
void __stack_chk_fail(void);
void __stack_chk_fail(void)
{
    dq_fail("a stack frame was overwritten");
}
#endif
static dq_file_t samples_file;
static dq_file_t outputs_file;

static void print_measured(const char *key, uint64_t number, const dq_interval_t *interval)
{
    dq_print(key);
    dq_print_hex(number);
    dq_print_hex(interval->ticks);
    dq_print_hex(interval->spins);
    dq_print("\\n");
}

static void check_guard(const uint8_t *guard, const char *problem)
{
    for (uint32_t i = 0; i < GUARD_BYTES; ++i) {
        if (guard[i] != GUARD_VALUE) {
            dq_print_hex((uint64_t)(uintptr_t)&guard[i]);
            dq_fail(problem);
        }
    }
}

static void run(
    uint32_t network, run_function function, size_t arena_bytes, size_t inputs, size_t outputs, int samples)
{
    uint8_t *const arena = arena_memory + GUARD_BYTES;
    int8_t *const input = input_memory + 1;
    int8_t *const output = (int8_t *)output_memory + GUARD_BYTES + 1;
    dq_interval_t total = {0, 0};
    for (int i = 0; i < samples; ++i) {
        memset(arena_memory, GUARD_VALUE, arena_bytes + 2 * GUARD_BYTES);
        memset(output_memory, GUARD_VALUE, outputs + 1 + 2 * GUARD_BYTES);
        if (dq_read(samples_file, input, (uint32_t)inputs) != inputs) {
            dq_fail("samples.bin ends too early");
        }
        if (dq_measure(function, arena, input, output, &total) != 0) {
            dq_fail("a network returned an error code");
        }
        check_guard(arena_memory, "written before the arena");
        check_guard(arena + arena_bytes, "written after the arena");
        check_guard(output_memory, "written before the output");
        check_guard((const uint8_t *)output + outputs, "written after the output");
        dq_write(outputs_file, output, (uint32_t)outputs);
    }
    print_measured("deployq: network", network, &total);
}

int main(void)
{
    static const uint32_t turns[] = {1, 100000, 1000000, 333333};
    dq_counter_start();
    for (uint32_t i = 0; i < sizeof turns / sizeof turns[0]; i++) {
        dq_interval_t interval = {0, 0};
        dq_measure(dq_known_loop, (void *)(uintptr_t)turns[i], input_memory, input_memory, &interval);
        print_measured("deployq: calibration", 2ull * turns[i] + 1u, &interval);
    }
    samples_file = dq_open_read("samples.bin");
    outputs_file = dq_open_write("outputs.bin");
@CALLS@
    dq_close(outputs_file);
    return 0;
}
"""


@dataclass(frozen=True)
class Emulated:
    """What one network gave: outputs (n, size), instructions per inference, and the kernels that it runs."""

    outputs: Int8Array
    instructions: int
    functions: tuple[str, ...]


def require_emulator() -> None:
    """Skip the calling test where the compiler or the emulator is missing."""
    for tool in ("qemu-system-arm", "arm-none-eabi-gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def run_emulated(
    networks: Sequence[Network],
    target: Target,
    directory: Path,
    flags: Sequence[str] = ("-O2",),
    compiler: str = "gcc",
) -> list[Emulated]:
    """Run networks, all generated for `target`, on its emulated core.

    Args:
        networks: with their samples.
        target: core with at least one machine.
        directory: empty directory for the sources and the program.
        flags: optimisation, and definitions for the generated C such as -DDQ_NO_ASM.
        compiler: of the generated C, "gcc" or "clang"; gcc compiles the harness and links.
    """
    libraries = write_program(networks, directory)
    _write_main(networks, [library.arena_bytes for library in libraries], directory)
    given = b"".join(to_c_order(n.samples, n.io_layout).tobytes() for n in networks)
    (directory / "samples.bin").write_bytes(given)
    printed = _emulate(target, directory, flags, compiler)
    calibration = calibrate(
        [(known, Interval(ticks, spins)) for key, known, ticks, spins in printed if key == "calibration"]
    )
    counted = [Interval(ticks, spins) for key, _, ticks, spins in printed if key == "network"]
    everything = np.fromfile(directory / "outputs.bin", np.int8)
    results, position = [], 0
    for network, library, interval in zip(networks, libraries, counted, strict=True):
        count = len(network.samples)
        size = count * network.graph.tensors[network.graph.output].size
        outputs = everything[position : position + size].reshape(count, -1)
        functions = tuple(layer.function for layer in library.layers)
        results.append(Emulated(outputs, calibration.instructions(interval, count), functions))
        position += size
    assert position == len(everything)
    return results


def _write_main(networks: Sequence[Network], arenas: Sequence[int], directory: Path) -> None:
    """Replace the host's main function in program.c."""
    program = (directory / "program.c").read_text(encoding="utf-8")
    includes = [line for line in program.splitlines() if line.startswith('#include "')]
    calls = []
    for index, network in enumerate(networks):
        m = f"NET{index}"
        arguments = f"{m}_ARENA_BYTES, {m}_INPUT_SIZE, {m}_OUTPUT_SIZE, {len(network.samples)}"
        calls.append(f"    run({index}, net{index}_run, {arguments});")
    sizes = {
        "ARENA_BYTES": max(arenas),
        "INPUT_BYTES": max(n.graph.tensors[n.graph.input].size for n in networks),
        "OUTPUT_BYTES": max(n.graph.tensors[n.graph.output].size for n in networks),
    }
    main = _MAIN.replace("@CALLS@", "\n".join(calls))
    for name, size in sizes.items():
        main = main.replace(f"@{name}@", str(size))
    (directory / "program.c").write_text("\n".join([*includes, main]), encoding="utf-8")


def _clang_for_arm(gcc: str) -> list[str]:
    """Flags with which clang compiles for the core, with the C library's headers of gcc."""
    root = run_tool([gcc, "-print-sysroot"], "gcc does not say where its headers are").strip()
    folder = Path(root or "/usr/lib/arm-none-eabi") / "include"
    return ["--target=arm-none-eabi", f"-isystem{folder}"]


def _emulate(
    target: Target, directory: Path, flags: Sequence[str], compiler: str
) -> list[tuple[str, int, int, int]]:
    """Compile, link for the target's largest machine, run; the numbers printed."""
    harness = harness_directory() / "qemu"
    gcc = f"{target.toolchain_prefix}gcc"
    machine = max(target.machines, key=lambda machine: machine.ram.bytes)
    common = [*target.compiler_flags, *flags, "-g", f"-I{harness}", f"-I{harness_directory()}"]
    stand_in = ["-DDQ_TRAP_UNALIGNED"] if machine != target.machines[0] else []
    strict = [flag for flag in STRICT if flag != "-Wpedantic"]  # the harness is GNU C
    own = (gcc, common) if compiler == "gcc" else (compiler, [*common, *_clang_for_arm(gcc)])
    program = compile_objects(own[0], (*own[1], *strict, "-std=gnu99"), (directory / "program.c",), directory)
    sources = tuple(harness / name for name in _HARNESS)
    objects = compile_objects(gcc, (*common, *stand_in), sources, directory)
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    script = template.from_string((harness / "link.ld.j2").read_text("utf-8"))
    (directory / "program.ld").write_text(script.render(machine=machine, stack_bytes=4096))
    command = [gcc, *target.compiler_flags, "-nostartfiles", "--specs=nano.specs"]
    command += [f"-T{directory / 'program.ld'}", "-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments"]
    command += [*map(str, (*program, *objects)), "-lc", "-lgcc", "-o", str(directory / "program.elf")]
    run_tool(command, "the test program does not link")
    emulator = ["qemu-system-arm", "-M", machine.name, "-kernel", "program.elf", "-display", "none"]
    emulator += ["-monitor", "none", "-serial", "none", "-no-reboot", "-icount", "shift=0"]
    emulator += ["-semihosting-config", "enable=on,target=native"]
    status, output = start_tool(emulator, timeout_seconds=900, directory=directory)
    assert status == 0, output[-3000:]
    lines = re.findall(
        r"^deployq: (calibration|network) ([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9a-f]{16})$", output, re.M
    )
    return [(key, int(number, 16), int(ticks, 16), int(spins, 16)) for key, number, ticks, spins in lines]

"""Runs the generated C on an emulated Cortex-M and counts its instructions.

The emulator is `qemu-system-arm`, bare metal, with semihosting for files and `-icount shift=0`, which
makes every run repeat exactly. It counts instructions, not cycles.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import jinja2
import numpy as np

from deployq.errors import DeployqError, ToolMissingError, UsageError, VerificationError
from deployq.targets import Machine, Target
from deployq.verify.counting import Calibration, Interval, calibrate
from deployq.verify.runner import (
    Int8Array,
    LayerOutputs,
    check_space,
    harness_flags,
    library_flags,
    library_sources,
    read_layer_outputs,
    read_outputs,
    write_samples,
)
from deployq.verify.size import CALL_GRAPH_FLAG, library_stack
from deployq.verify.toolchain import (
    DEFAULT_OPTIMISATION,
    compile_objects,
    find_tool,
    harness_directory,
    require_working,
    start_tool,
    tail,
)

#: Stack kept free beyond the library's own: the frames of the harness and of an interrupt.
_HARNESS_STACK_BYTES = 768

#: Section and region that the linker names when a program does not fit a machine.
_DOES_NOT_FIT = re.compile(r"region `?\w+'? overflowed|will not fit in region")

#: The program that `build_program` links.
PROGRAM = "program.elf"


@dataclass(frozen=True)
class QemuResult:
    """Outputs and costs of the C library on an emulated core; see `RunResult`.

    Attributes:
        outputs: int8 (samples, output_size).
        instructions_per_inference: mean over the samples; exact to about 4 instructions.
        layer_instructions: the same per layer, None if not asked for.
        stack_bytes: stack actually used by the run of the first sample.
        machine: machine of qemu-system-arm that was emulated.
        layer_outputs: one int8 (samples, layer_size) array per layer, None if not asked for.
        instructions_per_tick: rate of the tick counter, as calibrated.
    """

    outputs: Int8Array
    instructions_per_inference: int
    layer_instructions: tuple[int, ...] | None
    stack_bytes: int
    machine: str
    layer_outputs: LayerOutputs | None
    instructions_per_tick: Fraction


def run_qemu(
    firmware_dir: Path,
    prefix: str,
    target: Target,
    samples: Int8Array,
    output_size: int,
    *,
    layers: bool = False,
    layer_samples: int | None = None,
    optimisation: str = DEFAULT_OPTIMISATION,
    timeout_seconds: float = 1800.0,
    extra_defines: tuple[str, ...] = (),
) -> QemuResult:
    """Compile the library for the target and run it on every sample.

    Args:
        firmware_dir: the generated library; nothing is written there.
        prefix: its C prefix.
        target: a target with machines.
        samples: int8 (samples, input_size), in the layout of the C function's input.
        output_size: bytes per output.
        layers: run a second program that also counts and records every layer.
        layer_samples: that program runs on so many of the samples; all by default.
        optimisation: optimisation flag.
        timeout_seconds: limit for each of the runs.
        extra_defines: further compiler flags for the harness.

    Raises:
        ToolMissingError: compiler or emulator are not installed.
        UsageError: the target has no machine, or the samples are not an int8 matrix.
        DeployqError: the library does not compile without warnings, does not fit any machine of the
            target, or the run takes too long.
        VerificationError: the core faulted, the library wrote outside its arena, overflowed the stack
            or returned an error code, or the counter cannot be trusted.
    """
    if not target.machines:
        raise UsageError(f"{target.name} is not an emulated target")
    request = EmulationRequest(
        firmware_dir, prefix, target, output_size, optimisation, timeout_seconds, extra_defines
    )
    plain = _execute(request, samples, layers=False)
    layered = _execute(request, samples[:layer_samples], layers=True) if layers else None
    if layered is not None and not np.array_equal(layered.outputs, plain.outputs[:layer_samples]):
        raise VerificationError("the library gives other outputs when its layers are followed")
    return QemuResult(
        outputs=plain.outputs,
        instructions_per_inference=plain.instructions(),
        layer_instructions=layered.layer_instructions() if layered else None,
        stack_bytes=plain.stack_bytes(),
        machine=plain.machine,
        layer_outputs=layered.layer_outputs if layered else None,
        instructions_per_tick=plain.calibration.instructions_per_tick,
    )


@dataclass(frozen=True)
class EmulationRequest:
    """What to compile and how; see the arguments of `run_qemu`."""

    firmware_dir: Path
    prefix: str
    target: Target
    output_size: int
    optimisation: str
    timeout_seconds: float
    extra_defines: tuple[str, ...]

    @property
    def compiler(self) -> str:
        """Name of the target's gcc."""
        return f"{self.target.toolchain_prefix}gcc"


@dataclass(frozen=True)
class _Execution:
    """One run of one program: its files and the numbers it printed, by key."""

    outputs: Int8Array
    layer_outputs: LayerOutputs | None
    machine: str
    printed: dict[str, list[tuple[int, ...]]]

    @property
    def calibration(self) -> Calibration:
        lines = self.printed.get("calibration", [])
        return calibrate([(known, Interval(ticks, spins)) for known, ticks, spins in lines])

    def instructions(self) -> int:
        ((count, ticks, spins),) = self.printed["total"]
        return self.calibration.instructions(Interval(ticks, spins), count)

    def stack_bytes(self) -> int:
        return self.printed["stack"][0][0]

    def layer_instructions(self) -> tuple[int, ...]:
        *layers, empty = ((Interval(ticks, spins), calls) for _, ticks, spins, calls in self.printed["layer"])
        calibration = self.calibration.with_overhead_of(empty[0])
        # A layer of a cascade is called for every stripe of rows.
        return tuple(
            calibration.instructions(layer, len(self.outputs), calls // len(self.outputs))
            for layer, calls in layers
        )


def _execute(request: EmulationRequest, samples: Int8Array, *, layers: bool) -> _Execution:
    with tempfile.TemporaryDirectory(prefix="deployq-qemu-") as temporary:
        directory = Path(temporary)
        write_samples(directory, samples)
        machine = build_program(request, directory, input_size=samples.shape[1], layers=layers)
        printed = emulate(request, directory, machine)
        return _Execution(
            outputs=read_outputs(directory, len(samples), request.output_size),
            layer_outputs=read_layer_outputs(directory, len(samples)) if layers else None,
            machine=machine.name,
            printed=printed,
        )


def build_program(request: EmulationRequest, directory: Path, *, input_size: int, layers: bool) -> Machine:
    """Compile and link for the first machine the program fits; leave it in `directory`."""
    target = request.target
    flags = (*target.compiler_flags, request.optimisation, "-g", "-ffunction-sections", "-fdata-sections")
    library = compile_objects(
        request.compiler,
        (*flags, CALL_GRAPH_FLAG, *library_flags(request.firmware_dir, layers=layers)),
        library_sources(request.firmware_dir, request.prefix),
        directory,
    )
    stack_bytes = library_stack(library, request.prefix, target) + _HARNESS_STACK_BYTES
    names = harness_flags(
        request.firmware_dir,
        request.prefix,
        input_size=input_size,
        output_size=request.output_size,
        layers=layers,
    )
    reasons = []
    for index, machine in enumerate(target.machines):
        # Only the first machine has the target's own core; see the comments in the target files.
        stand_in = ("-DDQ_TRAP_UNALIGNED",) if index > 0 else ()
        harness = _compile_harness(
            request.compiler, (*flags, *names, *stand_in, *request.extra_defines), directory, layers=layers
        )
        problem = _link(request, (*harness, *library), directory, machine, stack_bytes)
        if not problem:
            return machine
        reasons.append(f"{machine.name}:\n{problem}")
    raise DeployqError(
        f"the program does not fit any machine of {target.name}",
        where=str(request.firmware_dir),
        why="\n".join(reasons),
    )


def _compile_harness(
    compiler: str, flags: tuple[str, ...], directory: Path, *, layers: bool
) -> tuple[Path, ...]:
    sources = harness_directory() / "qemu"
    names = ["main.c", "startup.c", "semihosting.c", "counter.c", "counter_asm.S", "stack.c"]
    if layers:
        names.append("layers.c")
    # Its own directory: the library may have files of the same names.
    objects = directory / "harness"
    objects.mkdir(exist_ok=True)
    return compile_objects(compiler, flags, tuple(sources / name for name in names), objects)


def _link(
    request: EmulationRequest, objects: tuple[Path, ...], directory: Path, machine: Machine, stack_bytes: int
) -> str:
    """Link; return "" or, if the program does not fit the machine, the linker's words.

    Raises:
        DeployqError: it does not link for another reason.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    template = environment.from_string((harness_directory() / "qemu" / "link.ld.j2").read_text("utf-8"))
    script = directory / f"{machine.name}.ld"
    script.write_text(template.render(machine=machine, stack_bytes=stack_bytes), encoding="utf-8")
    command = [str(find_tool(request.compiler)), *request.target.compiler_flags, "-nostartfiles"]
    command += ["--specs=nano.specs", f"-T{script}", "-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments"]
    command += [*map(str, objects), "-lc", "-lgcc", "-o", str(directory / PROGRAM)]
    status, output = start_tool(command, timeout_seconds=120)
    if status != 0 and not _DOES_NOT_FIT.search(output):
        raise DeployqError(
            f"the library does not link for {request.target.name}",
            where=str(request.firmware_dir),
            why=tail(output),
        )
    return tail(output) if status != 0 else ""


def emulate(
    request: EmulationRequest, directory: Path, machine: Machine, options: tuple[str, ...] = ()
) -> dict[str, list[tuple[int, ...]]]:
    """Run the program of `build_program`; return the numbers it printed, by key.

    Args:
        request: what was compiled.
        directory: of the program and of its files.
        machine: it was linked for.
        options: further ones of the emulator.

    Raises:
        VerificationError: the core faulted, or the harness ended with an error.
        ToolMissingError: the emulator is not installed, does not work or lacks the machine.
    """
    command = [str(find_tool("qemu-system-arm")), "-M", machine.name, "-kernel", PROGRAM]
    command += ["-display", "none", "-monitor", "none", "-serial", "none", "-no-reboot"]
    command += ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", *options]
    status, output = start_tool(command, timeout_seconds=request.timeout_seconds, directory=directory)
    if status != 0:
        check_space(directory, output)
        if not re.search(r"^deployq: ", output, re.M):
            _check_emulator(machine)
        fault = re.search(r"^deployq: fault (.*)$", output, re.M)
        why = f"exit status {status}\n{tail(output)}"
        if fault:
            why = _explain_fault(request, directory, fault[1])
        raise VerificationError(
            f"the generated C failed on {machine.name} ({request.target.name})",
            where=str(request.firmware_dir),
            why=why,
        )
    printed: dict[str, list[tuple[int, ...]]] = {}
    for key, numbers in re.findall(r"^deployq: (\w+)((?: [0-9a-f]{16})+)$", output, re.M):
        printed.setdefault(key, []).append(tuple(int(number, 16) for number in numbers.split()))
    if "total" not in printed:
        require_working("qemu-system-arm")
        raise VerificationError(
            "the emulated program ended without its results",
            where=str(request.firmware_dir),
            why=tail(output),
        )
    return printed


def _check_emulator(machine: Machine) -> None:
    """After a run in which the program did not get to print anything: is it the emulator's fault?

    Raises:
        ToolMissingError: the emulator does not work, or does not have the machine.
    """
    require_working("qemu-system-arm")
    command = [str(find_tool("qemu-system-arm")), "-machine", "help"]
    status, listing = start_tool(command, timeout_seconds=30)
    if status == 0 and not re.search(rf"^{re.escape(machine.name)}\s", listing, re.M):
        raise ToolMissingError(
            f"qemu-system-arm has no machine {machine.name}", hint="install QEMU 7 or a later one"
        )


def _explain_fault(request: EmulationRequest, directory: Path, numbers: str) -> str:
    """The core's fault report in words, with the source lines it points at."""
    exception, counter, link, status = (int(number, 16) for number in numbers.split())
    tool = find_tool(f"{request.target.toolchain_prefix}addr2line")
    command = [str(tool), "-f", "-e", str(directory / PROGRAM), hex(counter), hex(link & ~1)]
    _, output = start_tool(command, timeout_seconds=30)
    places = [" ".join(pair) for pair in zip(*[iter(output.split("\n"))] * 2, strict=False)]
    return (
        f"fault: exception {exception}, CFSR 0x{status:08x}, at 0x{counter:08x} in {places[0]}, "
        f"called from {places[1]}"
    )

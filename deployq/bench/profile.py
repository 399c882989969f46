"""How often every instruction of the library ran, per layer: a plugin inside the emulator counts.

The plugin is C (templates/harness/plugin), compiled with the host's gcc for the emulator that is installed.
It counts translated blocks, so the counts are exact; it needs no more time than a second per few tens of
millions of instructions. The program is the one that counts the instructions of layers in
`deployq.verify.qemu`; what belongs to the harness is left out.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deployq.bench.disassembly import Instruction, Listing, Symbol, function_sizes, read_listing
from deployq.bench.timing import cycles
from deployq.errors import DeployqError, ToolMissingError, VerificationError
from deployq.targets import Machine
from deployq.verify.qemu import PROGRAM, EmulationRequest, build_program, emulate
from deployq.verify.runner import Int8Array, write_samples
from deployq.verify.toolchain import STRICT_FLAGS, find_tool, harness_directory, run_tool, tool_version

_PLUGIN = "profile.so"
_COUNTS = "profile.txt"

#: Since this version of QEMU a plugin must state version 2 of the interface; before, version 1.
_INTERFACE_2 = 9


@dataclass(frozen=True)
class ExecutedBlock:
    """Consecutive instructions of one layer that ran together.

    Attributes:
        layer: index.
        function: that they belong to.
        instructions: in the order of execution.
        executions: in all inferences together.
        jumps: how often another instruction than the one behind the block came next.
    """

    layer: int
    function: Symbol
    instructions: tuple[Instruction, ...]
    executions: int
    jumps: int

    @property
    def executed(self) -> int:
        """Executed instructions."""
        return self.executions * len(self.instructions)


@dataclass(frozen=True)
class Cost:
    """Instructions and modelled Cortex-M4 cycles per inference, rounded means."""

    instructions: int
    modelled_cycles: int


@dataclass(frozen=True)
class Profile:
    """What the layers of a library executed in `samples` inferences."""

    blocks: tuple[ExecutedBlock, ...]
    samples: int

    def layer(self, index: int) -> Cost:
        """Cost of a layer, with everything it calls."""
        return self._cost([block for block in self.blocks if block.layer == index])

    def function(self, name: str) -> Cost:
        """Cost of a function in all layers, without what it calls."""
        return self._cost([block for block in self.blocks if block.function.name == name])

    @property
    def functions(self) -> frozenset[str]:
        """Names of the functions that ran."""
        return frozenset(block.function.name for block in self.blocks)

    def _cost(self, blocks: list[ExecutedBlock]) -> Cost:
        modelled = sum(cycles(block.instructions, block.executions, block.jumps) for block in blocks)
        return Cost(
            round(sum(block.executed for block in blocks) / self.samples), round(modelled / self.samples)
        )


def profile(request: EmulationRequest, samples: Int8Array) -> Profile:
    """Run the library on every sample under the profiler.

    Args:
        request: library, target and compiler flags.
        samples: int8 (samples, input_size), in the layout of the C function's input.

    Raises:
        ToolMissingError: a compiler or the emulator is missing, or this emulator takes no plugins.
        VerificationError: the library failed in the emulator.
        DeployqError: the library does not compile.
    """
    with tempfile.TemporaryDirectory(prefix="deployq-profile-") as temporary:
        directory = Path(temporary)
        compile_plugin(directory)
        write_samples(directory, samples)
        machine = build_program(request, directory, input_size=samples.shape[1], layers=True)
        listing = read_listing(directory / PROGRAM, request.target)
        harness = function_sizes((directory / "harness").glob("*.o"), request.target)
        _run(request, directory, machine, listing)
        counts = (directory / _COUNTS).read_text(encoding="ascii")
        return Profile(tuple(_blocks(counts, listing, frozenset(harness))), len(samples))


def compile_plugin(directory: Path) -> None:
    """Compile the plugin for the emulator that is installed, into a directory.

    Raises:
        ToolMissingError: the host's gcc or the emulator is not installed.
    """
    version = re.search(r"version (\d+)", tool_version("qemu-system-arm"))
    interface = 2 if version and int(version[1]) >= _INTERFACE_2 else 1
    command = [str(find_tool("gcc")), *STRICT_FLAGS, "-O2", "-fPIC", "-shared"]
    command += [f"-DDQ_PLUGIN_VERSION={interface}", str(harness_directory() / "plugin" / "profile.c")]
    run_tool([*command, "-o", str(directory / _PLUGIN)], "the profiler does not compile with gcc")


def _run(request: EmulationRequest, directory: Path, machine: Machine, listing: Listing) -> None:
    begin = listing.symbol("dq_harness_layer_begin")
    end = listing.symbol("dq_harness_layer_end")
    marks = listing.symbol("dq_layer_marks")
    arguments = {
        "out": _COUNTS,
        "slots": marks.bytes,
        "marks": marks.address,
        "begin": begin.address,
        "begin_end": begin.address + begin.bytes,
        "end": end.address,
    }
    option = ",".join((f"./{_PLUGIN}", *(f"{name}={value}" for name, value in arguments.items())))
    try:
        emulate(request, directory, machine, ("-plugin", option))
    except VerificationError as error:
        if "plugin" not in error.why:
            raise
        raise ToolMissingError(
            "this qemu-system-arm does not take the profiler that --cycles needs",
            why=error.why,
            hint="leave --cycles out, or use a QEMU with TCG plugins, such as Debian's 7.2",
        ) from error
    if not (directory / _COUNTS).is_file():
        raise DeployqError("the profiler in the emulator counted nothing")


def _blocks(counts: str, listing: Listing, harness: frozenset[str]) -> Iterator[ExecutedBlock]:
    """The blocks that the plugin counted, without those of the harness."""
    for line in counts.splitlines():
        layer, start, length, executions, jumps = line.split()
        function = listing.function_at(int(start, 16))
        if function.name not in harness:
            instructions = listing.block(int(start, 16), int(length))
            yield ExecutedBlock(int(layer), function, instructions, int(executions), int(jumps))

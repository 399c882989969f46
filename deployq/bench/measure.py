"""Measure the C library of an output directory: instructions, code, memory, modelled cycles."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deployq.bench import timing
from deployq.bench.directory import BuiltLibrary, core_to_measure, read_directory
from deployq.bench.disassembly import function_sizes
from deployq.bench.profile import Profile, profile
from deployq.errors import UsageError, VerificationError
from deployq.report.bench import MODEL_NOTE, BenchReport, FunctionCost, LayerCost
from deployq.steps import Progress, silent
from deployq.targets import Target
from deployq.verify.compare import count_mismatches
from deployq.verify.qemu import EmulationRequest, QemuResult, run_qemu
from deployq.verify.runner import library_flags, library_sources
from deployq.verify.size import LibrarySize, library_size
from deployq.verify.toolchain import DEFAULT_OPTIMISATION, compile_objects, tool_version

#: Inferences that are averaged. Only few kernels depend on the data, such as softmax and max pooling.
DEFAULT_SAMPLES = 4

_TIMEOUT_SECONDS = 1800.0

#: Largest difference between the two counters, in instructions per layer: the emulated timer resolves about
#: 4, and the profiler sees what is between a hook and the time stamp in it.
_TOLERANCE = 32


@dataclass(frozen=True)
class _Measured:
    """Everything about a library that `_report` puts together."""

    built: BuiltLibrary
    target: Target
    size: LibrarySize
    functions: Mapping[str, int]
    emulation: QemuResult
    profile: Profile | None


def bench_directory(
    directory: Path | str,
    *,
    target: str | None = None,
    samples: int = DEFAULT_SAMPLES,
    cycles: bool = False,
    progress: Progress = silent,
) -> BenchReport:
    """Compile the C library of an output directory, run it in the emulator and count.

    Args:
        directory: written by `deployq build`; nothing is written there. The kernels may have been edited
            since: what is there is measured.
        target: core to measure on, that of the build if None.
        samples: how many of the build's test vectors to run.
        cycles: also profile every instruction and model the cycles of a Cortex-M4 (`deployq.bench.timing`).
        progress: called with one line per step.

    Raises:
        UsageError: not a directory of deployq, or damaged; a core that cannot be measured.
        ToolMissingError: a compiler or the emulator is not installed.
        VerificationError: the C does not compute what the build verified, or fails in the emulator.
        DeployqError: the C does not compile.
    """
    library = read_directory(Path(directory), samples)
    core = core_to_measure(library.report.target, target)
    if cycles and core.name != timing.TARGET:
        raise UsageError(
            f"there is no model of the cycles of {core.name}",
            where="--cycles",
            hint=f"--target {timing.TARGET}, or leave --cycles out",
        )
    progress(f"compile for {core.name}")
    size = _size(library, core)
    functions = _functions(library, core)
    progress(f"run {len(library.samples)} inferences in QEMU")
    emulation = _emulated(library, core)
    profiled = None
    if cycles:
        progress("profile every instruction in QEMU")
        request = EmulationRequest(
            *(library.firmware, library.report.name, core, library.expected.shape[1]),
            *(DEFAULT_OPTIMISATION, _TIMEOUT_SECONDS, ()),
        )
        profiled = profile(request, library.samples)
        _compare(profiled, emulation)
    return _report(_Measured(library, core, size, functions, emulation, profiled))


def _size(library: BuiltLibrary, target: Target) -> LibrarySize:
    size = library_size(library.firmware, library.report.name, target)
    if not library.is_single_file:
        return size
    weights = library.report.memory.weights_bytes  # in the same object file as the code
    return replace(size, code_bytes=size.code_bytes - weights, weights_bytes=weights)


def _functions(library: BuiltLibrary, target: Target) -> dict[str, int]:
    """Bytes of every function of the library."""
    sources = library_sources(library.firmware, library.report.name)
    flags = (
        *target.compiler_flags,
        DEFAULT_OPTIMISATION,
        *library_flags(library.firmware, layers=False),
    )
    with tempfile.TemporaryDirectory(prefix="deployq-bench-") as temporary:
        objects = compile_objects(f"{target.toolchain_prefix}gcc", flags, sources, Path(temporary))
        return function_sizes(objects, target)


def _emulated(library: BuiltLibrary, target: Target) -> QemuResult:
    """Run the samples; refuse to measure what computes something else."""
    result = run_qemu(
        library.firmware,
        library.report.name,
        target,
        library.samples,
        library.expected.shape[1],
        layers=True,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    mismatches = count_mismatches(library.expected, result.outputs)
    if mismatches:
        raise VerificationError(
            "the C library does not compute what the build verified",
            where=str(library.firmware),
            why=f"{mismatches} of {library.expected.size} output bytes differ from the test vectors",
            hint="deployq verify names the first differing layer; build again if the C was edited",
        )
    return result


def _compare(profiled: Profile, emulation: QemuResult) -> None:
    """The profiler and the emulated timer count independently; they must agree.

    Raises:
        VerificationError: they do not.
    """
    for index, counted in enumerate(emulation.layer_instructions or ()):
        found = profiled.layer(index).instructions
        if abs(found - counted) > _TOLERANCE:
            raise VerificationError(
                "the profiler and the timer of the emulator disagree",
                where=f"layer {index}",
                why=f"{found} and {counted} instructions",
                hint="this is a defect of deployq or of QEMU: please report it",
            )


def _report(measured: _Measured) -> BenchReport:
    library, emulation, size = measured.built, measured.emulation, measured.size
    layers = _layers(measured)
    macs = sum(layer.macs for layer in layers)
    modelled = [layer.modelled_cycles for layer in layers if layer.modelled_cycles is not None]
    modelled_cycles = sum(modelled) if measured.profile is not None else None
    return BenchReport(
        name=library.report.name,
        target=measured.target.name,
        machine=emulation.machine,
        compiler=tool_version(f"{measured.target.toolchain_prefix}gcc"),
        flags=(*measured.target.compiler_flags, DEFAULT_OPTIMISATION),
        samples=len(library.samples),
        instructions=emulation.instructions_per_inference,
        macs=macs,
        instructions_per_mac=_per_mac(emulation.instructions_per_inference, macs),
        modelled_cycles=modelled_cycles,
        modelled_cycles_per_mac=_per_mac(modelled_cycles, macs),
        cycle_model=MODEL_NOTE if measured.profile is not None else None,
        weights_bytes=size.weights_bytes,
        code_bytes=size.code_bytes,
        arena_bytes=library.report.memory.arena_bytes,
        stack_bytes=size.stack_bytes,
        used_stack_bytes=emulation.stack_bytes,
        layers=layers,
        functions=_function_costs(measured),
    )


def _layers(measured: _Measured) -> tuple[LayerCost, ...]:
    library, counts = measured.built, measured.emulation.layer_instructions or ()
    costs = []
    for index, layer in enumerate(library.report.layers):
        modelled = None if measured.profile is None else measured.profile.layer(index).modelled_cycles
        costs.append(
            LayerCost(
                name=layer.name,
                op=layer.op,
                function=library.functions[index],
                macs=layer.macs,
                instructions=counts[index],
                instructions_per_mac=_per_mac(counts[index], layer.macs),
                modelled_cycles=modelled,
                modelled_cycles_per_mac=_per_mac(modelled, layer.macs),
            )
        )
    return tuple(costs)


def _function_costs(measured: _Measured) -> tuple[FunctionCost, ...]:
    """The library's functions, largest first, then those of the compiler's runtime that ran."""
    sizes, profiled = measured.functions, measured.profile
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    names += sorted((profiled.functions if profiled else frozenset()) - sizes.keys())
    found = []
    for name in names:
        cost = profiled.function(name) if profiled else None
        found.append(
            FunctionCost(
                name,
                sizes.get(name),
                cost.instructions if cost else None,
                cost.modelled_cycles if cost else None,
            )
        )
    return tuple(found)


def _per_mac(count: int | None, macs: int) -> float | None:
    return None if count is None or not macs else round(count / macs, 4)

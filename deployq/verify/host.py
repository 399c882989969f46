"""Runs the generated C on this machine, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deployq.errors import VerificationError
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
from deployq.verify.toolchain import (
    DEFAULT_OPTIMISATION,
    compile_objects,
    find_tool,
    harness_directory,
    run_compiler,
    start_tool,
    tail,
)

_SANITIZE_FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
_SANITIZER_OPTIONS = {
    # The leak checker needs ptrace, which containers forbid; the library has no heap to leak.
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}

#: Guard around the arena where no sanitizer watches; a multiple of every arena alignment.
_GUARD_BYTES = 64

#: Heap blocks are aligned like this: what posix_memalign needs and every arena accepts.
_BLOCK_ALIGNMENT = 64

#: Lines of a sanitizer's report that say what happened and where; shadow memory follows.
_REPORT_LINES = 12


@dataclass(frozen=True)
class HostResult:
    """Outputs of the C library on this machine; see `RunResult`."""

    outputs: Int8Array
    layer_outputs: LayerOutputs | None


def run_host(
    firmware_dir: Path,
    prefix: str,
    samples: Int8Array,
    output_size: int,
    *,
    compiler: Literal["gcc", "clang"] = "gcc",
    sanitize: bool = True,
    layers: bool = False,
    optimisation: str = DEFAULT_OPTIMISATION,
    timeout_seconds: float = 1800.0,
) -> HostResult:
    """Compile the library with the strict flags and run it on every sample.

    Args:
        firmware_dir: the generated library; nothing is written there.
        prefix: its C prefix.
        samples: int8 (samples, input_size), in the layout of the C function's input.
        output_size: bytes per output.
        compiler: either compiler must give the same bytes.
        sanitize: compile with ASan and UBSan.
        layers: also return every layer's output.
        optimisation: optimisation flag.
        timeout_seconds: limit for the run.

    Raises:
        ToolMissingError: the compiler is not installed.
        DeployqError: the library does not compile without warnings, or the run takes too long.
        VerificationError: a sanitizer stopped it, it wrote outside its arena or into its input, or
            it returned an error code.
    """
    with tempfile.TemporaryDirectory(prefix="deployq-host-") as temporary:
        directory = Path(temporary)
        write_samples(directory, samples)
        flags = (optimisation, "-g", *(_SANITIZE_FLAGS if sanitize else ()))
        objects = compile_objects(
            compiler,
            (*flags, *library_flags(firmware_dir, layers=layers)),
            library_sources(firmware_dir, prefix),
            directory,
        )
        harness = harness_flags(
            firmware_dir, prefix, input_size=samples.shape[1], output_size=output_size, layers=layers
        )
        definitions = (
            "-D_POSIX_C_SOURCE=200112L",
            f"-DDQ_GUARD_BYTES={0 if sanitize else _GUARD_BYTES}u",
            f"-DDQ_BLOCK_ALIGN={_BLOCK_ALIGNMENT}",
        )
        # Its own directory: the library may have a file of the same name.
        harness_objects = directory / "harness"
        harness_objects.mkdir()
        objects += compile_objects(
            compiler,
            (*flags, *harness, *definitions),
            (harness_directory() / "host" / "main.c",),
            harness_objects,
        )
        program = directory / "harness_program"
        link = [str(find_tool(compiler)), *flags, *map(str, objects), "-o", str(program)]
        run_compiler(link, "the library does not link on the host", program)
        status, output = start_tool(
            [str(program)],
            timeout_seconds=timeout_seconds,
            directory=directory,
            environment=_SANITIZER_OPTIONS,
        )
        if status != 0:
            check_space(directory, output)
            raise VerificationError(
                f"the generated C failed on the host ({compiler})",
                where=str(firmware_dir),
                why=f"exit status {status}\n{_explain(output)}",
            )
        outputs = read_outputs(directory, len(samples), output_size)
        return HostResult(outputs, read_layer_outputs(directory, len(samples)) if layers else None)


def _explain(output: str) -> str:
    """The beginning of a sanitizer's report, where the reason stands; else the end of the output."""
    report = re.search(r"^.*(ERROR: \w+Sanitizer|runtime error:)", output, re.M)
    if report is None:
        return tail(output)
    return "\n".join(output[report.start() :].splitlines()[:_REPORT_LINES])

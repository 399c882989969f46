"""Many generated libraries in one host program: compiled once, every network run on its samples.

The networks share one set of kernels, as several models in one firmware would. Arena, input and
output are allocated with their exact sizes, so that AddressSanitizer sees every byte beyond them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deployq.codegen.cascade_search import Cutter, Span, with_cascades
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, GeneratedLibrary, write_library
from deployq.codegen.kernel_source import kernel_source, template_environment
from deployq.codegen.kernels import Core
from deployq.codegen.optimize import build_schedule
from deployq.codegen.schedule import Schedule, schedule_on
from deployq.graph import Graph
from deployq.layout import to_c_order
from deployq.targets import Target
from deployq.verify.reference import run_reference

Int8Array = npt.NDArray[np.int8]

PORTABLE = Target("portable", "", "host", "", (), frozenset(), 4, ())
#: The portable forms of the kernels of cores with instructions of their own.
DSP = Target("dsp", "", "host", "", (), frozenset({"dsp"}), 4, ())
HELIUM = Target("helium", "", "host", "", (), frozenset({"dsp", "mve"}), 4, ())

STRICT = (
    "-std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef "
    "-Wdouble-promotion -Wstrict-prototypes -Werror"
).split()
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

_MAIN = """
#include <stdio.h>
#include <stdlib.h>

typedef int (*run_function)(void *, const int8_t *, int8_t *);

static void run(run_function function, size_t arena_bytes, size_t inputs, size_t outputs, int samples)
{
    int8_t *const arena = malloc(arena_bytes);
    int8_t *const input = malloc(inputs);
    int8_t *const output = malloc(outputs);
    for (int i = 0; i < samples; ++i) {
        if (fread(input, 1, inputs, stdin) != inputs || function(arena, input, output) != 0) {
            exit(1);
        }
        fwrite(output, 1, outputs, stdout);
    }
    free(arena);
    free(input);
    free(output);
}

int main(void)
{
@CALLS@
    return 0;
}
"""


@dataclass(frozen=True)
class Network:
    """A graph, the samples it runs on (n, *shape), and how it is generated.

    With `spans`, these steps are executed depth first, whatever `optimize` would choose.
    """

    graph: Graph
    samples: Int8Array
    target: Target
    io_layout: str = "nhwc"
    optimize: str = "balanced"
    spans: tuple[Span, ...] = ()

    def schedule(self) -> Schedule:
        """What is generated."""
        features = self.target.features
        if not self.spans:
            return build_schedule(self.graph, features, self.io_layout, self.optimize)
        return forced_schedule(self.graph, features, self.io_layout, self.optimize, self.spans)

    def expected(self) -> Int8Array:
        """Reference outputs (n, size) in the order of the C function."""
        return to_c_order(run_reference(self.graph, self.samples), self.io_layout)


def forced_schedule(
    graph: Graph, features: frozenset[str], io_layout: str, optimize: str, spans: Sequence[Span]
) -> Schedule:
    """The schedule in which the given steps are executed depth first, as far as they can be."""
    core = Core(features, optimize)
    cores = {node.name: core for node in graph.nodes}
    return with_cascades(schedule_on(graph, core, io_layout), spans, Cutter(graph), cores)


def write_program(networks: Sequence[Network], directory: Path) -> list[GeneratedLibrary]:
    """Write `program.c`, which includes every network and one set of kernels."""
    libraries, calls, lines, includes = [], [], [], []
    for index, network in enumerate(networks):
        prefix = f"net{index}"
        options = EmitOptions(prefix, network.io_layout, optimize=network.optimize)
        schedule = network.schedule()
        library = generate(network.graph, network.target, options, schedule)
        write_library(library, directory)
        libraries.append(library)
        calls += schedule.calls
        includes += [f'#include "{prefix}_weights.c"', f'#include "{prefix}.c"']
        macro = prefix.upper()
        lines.append(
            f"    run({prefix}_run, {macro}_ARENA_BYTES, {macro}_INPUT_SIZE, {macro}_OUTPUT_SIZE, "
            f"{len(network.samples)});"
        )
    environment = template_environment()
    context = {"source": kernel_source(environment, calls), "options": EmitOptions()}
    for name in ("kernels.h", "kernels.c"):
        text = environment.get_template(f"{name}.j2").render(context)
        (directory / f"dq_{name}").write_text(text)
    program = "\n".join(['#include "dq_kernels.c"', *includes, _MAIN.replace("@CALLS@", "\n".join(lines))])
    (directory / "program.c").write_text(program)
    return libraries


def run_program(
    networks: Sequence[Network], directory: Path, compiler: str, flags: Sequence[str]
) -> list[Int8Array]:
    """Compile `program.c`, run it; outputs (n, size) of each network."""
    binary = directory / f"program-{compiler}"
    command = [compiler, *STRICT, *flags, str(directory / "program.c"), "-o", str(binary)]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr[:4000]
    given = b"".join(to_c_order(n.samples, n.io_layout).tobytes() for n in networks)
    result = subprocess.run([str(binary)], input=given, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode(errors="replace")[:4000]
    outputs, position = [], 0
    for network in networks:
        size = len(network.samples) * network.graph.tensors[network.graph.output].size
        values = np.frombuffer(result.stdout[position : position + size], np.int8)
        outputs.append(values.reshape(len(network.samples), -1))
        position += size
    assert position == len(result.stdout)
    return outputs

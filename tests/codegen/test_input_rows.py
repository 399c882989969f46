"""The C function that asks for its input row by row: what it asks for, and what it computes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, GeneratedLibrary, write_library
from deployq.errors import UsageError
from deployq.graph import Graph
from deployq.layout import to_c_order
from deployq.targets import Target, load_target
from deployq.verify.qemu import run_qemu
from deployq.verify.reference import run_reference
from tests.codegen.cascade_networks import DrawnNetwork
from tests.codegen.emulated import require_emulator
from tests.codegen.harness import DSP, HELIUM, PORTABLE, SANITIZE, STRICT
from tests.integer_networks import dense_network, mobile_network, residual_network, samples

#: Gives rows of an input that it alone knows; the network sees no other.
_MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

typedef struct {
    const int8_t *input;
    int32_t next;
} camera;

static void give(void *context, int32_t row, int8_t *values)
{
    camera *const from = context;
    if (row != from->next || row >= NET_INPUT_ROWS) {
        exit(3);
    }
    ++from->next;
    memcpy(values, from->input + row * NET_INPUT_ROW_SIZE, NET_INPUT_ROW_SIZE);
}

int main(void)
{
    int8_t *const arena = malloc(NET_ARENA_BYTES);
    int8_t *const input = malloc(NET_INPUT_SIZE);
    int8_t *const outputs[2] = {malloc(NET_OUTPUT_SIZE), malloc(NET_OUTPUT_SIZE)};
    while (fread(input, 1, NET_INPUT_SIZE, stdin) == NET_INPUT_SIZE) {
        camera from = {input, 0};
        if (net_run_rows(arena, give, &from, outputs[0]) != NET_OK || from.next != NET_INPUT_ROWS
            || net_run(arena, input, outputs[1]) != NET_OK
            || memcmp(outputs[0], outputs[1], NET_OUTPUT_SIZE) != 0) {
            return 1;
        }
        fwrite(outputs[0], 1, NET_OUTPUT_SIZE, stdout);
    }
    if (net_run_rows(NULL, give, NULL, outputs[0]) != NET_ERR_NULL
        || net_run(arena, NULL, outputs[0]) != NET_ERR_NULL
        || net_run_rows(arena, NULL, NULL, outputs[0]) != NET_ERR_NULL) {
        return 2;
    }
    free(arena);
    free(input);
    free(outputs[0]);
    free(outputs[1]);
    return 0;
}
"""

_GRAPHS = {
    "residual": residual_network(np.random.default_rng(5), alphabet("midrise-2")),
    "mobile": mobile_network(np.random.default_rng(6), alphabet("ternary")),
    **{f"drawn {seed}": DrawnNetwork(seed).graph() for seed in range(4)},
}


def _library(graph: Graph, target: Target, directory: Path, optimize: str = "balanced") -> GeneratedLibrary:
    library = generate(graph, target, EmitOptions("net", input_rows=True, optimize=optimize))
    write_library(library, directory)
    return library


@pytest.mark.slow
@pytest.mark.parametrize("target", [PORTABLE, DSP, HELIUM], ids=lambda target: target.name)
@pytest.mark.parametrize("name", _GRAPHS)
def test_rows_are_asked_for_in_order_and_give_the_same(name: str, target: Target, tmp_path: Path) -> None:
    graph = _GRAPHS[name]
    _library(graph, target, tmp_path)
    (tmp_path / "main.c").write_text(_MAIN)
    sources = [str(tmp_path / file) for file in ("main.c", "net.c", "net_weights.c", "dq_kernels.c")]
    binary = tmp_path / "program"
    command = ["gcc", *STRICT, *SANITIZE, *sources, "-o", str(binary)]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
    given = samples(graph, 3, np.random.default_rng(1))
    expected = to_c_order(run_reference(graph, given), "nhwc")
    run = subprocess.run(
        [str(binary)], input=to_c_order(given, "nhwc").tobytes(), capture_output=True, check=False
    )
    assert run.returncode == 0, (run.returncode, run.stderr)
    assert run.stdout == expected.tobytes()


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m55"])
def test_every_core_computes_the_same(target: str, tmp_path: Path) -> None:
    require_emulator()
    graph, core = _GRAPHS["residual"], load_target(target)
    given = samples(graph, 3, np.random.default_rng(2))
    expected = to_c_order(run_reference(graph, given), "nhwc")
    for optimize in ("balanced", "ram"):
        directory = tmp_path / optimize
        library = _library(graph, core, directory, optimize)
        result = run_qemu(directory, "net", core, to_c_order(given, "nhwc"), expected.shape[1])
        assert np.array_equal(result.outputs, expected)
        plain = generate(graph, core, EmitOptions("net"))
        assert library.arena_bytes < plain.arena_bytes + graph.tensors[graph.input].size


def test_without_it_there_is_no_such_function() -> None:
    header = generate(_GRAPHS["mobile"], DSP, EmitOptions("net")).files["net.h"]
    assert "net_run_rows" not in header and "INPUT_ROW" not in header


def test_a_vector_has_no_rows() -> None:
    graph = dense_network(np.random.default_rng(1), alphabet("midrise-2"))
    with pytest.raises(UsageError, match="the input cannot be read row by row") as caught:
        generate(graph, DSP, EmitOptions("net", input_rows=True))
    assert "a vector of" in str(caught.value)


@pytest.mark.parametrize("optimize", ["balanced", "ram"])
def test_channels_first_have_no_rows(optimize: str) -> None:
    options = EmitOptions("net", io_layout="nchw", input_rows=True, optimize=optimize)
    with pytest.raises(UsageError, match="the input cannot be read row by row"):
        generate(_GRAPHS["residual"], DSP, options)

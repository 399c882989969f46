"""The generated library: its files, its golden copy, its refusals."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, GeneratedLibrary, write_library
from deployq.codegen.kernels import Core, choose_kernel, prove
from deployq.errors import ModelError, UsageError
from deployq.graph import Graph
from deployq.ops.accumulate import Accumulation
from deployq.ops.linear import IntegerLinear
from deployq.ops.reshape import Reshape
from tests.codegen.harness import DSP, PORTABLE, STRICT
from tests.integer_networks import NetworkBuilder, mobile_network, residual_network

_GOLDEN = Path(__file__).parent / "golden"


def _golden_graph() -> Graph:
    """A convolution and a classifier on 8x8 images, weights from a fixed integer sequence."""
    builder = NetworkBuilder(np.random.default_rng(8), alphabet("midrise-2"), (1, 8, 8), zero_point=-128)
    features = builder.conv("x", 4, 3, stride=2)
    return builder.graph(builder.linear(builder.add(Reshape((64,)), features), 10), "golden")


def golden_library() -> GeneratedLibrary:
    """The library kept in tests/codegen/golden."""
    options = EmitOptions("golden", version="0", model_sha256="0" * 64, input_note="q = pixel - 128")
    return generate(_golden_graph(), DSP, options)


def test_golden_files() -> None:
    """After an intended change: python -m tests.codegen.update_golden, and read the diff."""
    library = golden_library()
    kept = {path.name: path.read_text() for path in _GOLDEN.iterdir()}
    assert kept == dict(library.files)


def test_generation_repeats_byte_for_byte() -> None:
    assert golden_library().sha256 == golden_library().sha256


_FORMATS = {
    ("dsp", "midrise-2", "conv2d"): "pairs",
    ("dsp", "midtread-3", "conv2d"): "woven linked",
    ("dsp", "midtread-5", "linear"): "woven bytes",
    ("dsp", "midtread-4", "conv2d"): "linked",
    ("dsp", "midtread-4", "linear"): "linked",
    ("dsp", "symmetric-8", "conv2d"): "bytes",
    ("dsp", "midrise-2", "depthwise2d"): "dense",
    ("mve", "midrise-2", "conv2d"): "vectors",
    ("mve", "midrise-2", "depthwise2d"): "vectors",
    ("armv7m", "midrise-2", "conv2d"): "planes",
    ("armv7m", "midrise-2", "depthwise2d"): "dense",
    ("", "midrise-2", "conv2d"): "dense",
}


@pytest.mark.parametrize(("feature", "letters", "kind"), list(_FORMATS))
def test_the_tables_say_how_weights_are_packed(feature: str, letters: str, kind: str) -> None:
    features = frozenset({"dsp", "mve"} if feature == "mve" else {feature} - {""})
    graph = mobile_network(np.random.default_rng(1), alphabet(letters))
    library = generate(graph, replace(PORTABLE, features=features), EmitOptions("net"))
    weights = re.sub(r"\n \* ", " ", library.files["net_weights.c"])
    number = next(i for i, layer in enumerate(library.layers) if f"dq_{kind}_" in layer.function)
    comment = re.search(
        rf"/\*([^/]*)\*/\s+DQ_WEIGHTS_SECTION\s+const \w+ net_layer{number}_weights\[", weights
    )
    assert comment and f"({letters}), {_FORMATS[feature, letters, kind]}: " in comment[1]


@pytest.mark.parametrize("single_file", [False, True])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_example_builds_and_runs(single_file: bool, compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    graph = residual_network(np.random.default_rng(1), alphabet("ternary"))
    hostile = tuple(replace(node, name=f"*/ {node.name} \\\n??/ \u00e9") for node in graph.nodes)
    graph = replace(graph, nodes=hostile)
    library = generate(graph, DSP, EmitOptions("net", single_file=single_file))
    write_library(library, tmp_path)
    sources = [str(path) for path in sorted(tmp_path.glob("*.c"))]
    command = [compiler, *STRICT, *sources, "-o", str(tmp_path / "example")]
    subprocess.run(command, check=True)
    printed = subprocess.run([str(tmp_path / "example")], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("largest output: ")


def test_the_header_compiles_as_cpp(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    write_library(golden_library(), tmp_path)
    (tmp_path / "use.cpp").write_text(
        '#include "golden.h"\nint main() { return golden_quantize_input(0.0f); }\n'
    )
    subprocess.run(
        ["g++", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", str(tmp_path / "use.cpp")], check=True
    )


def test_cmake_builds_the_target(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    write_library(golden_library(), tmp_path / "golden")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(app C)\nadd_subdirectory(golden)\n"
        "add_executable(app golden/main.c)\ntarget_link_libraries(app deployq::golden)\n"
    )
    for command in (["cmake", "-S", ".", "-B", "build"], ["cmake", "--build", "build"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    subprocess.run([str(tmp_path / "build" / "app")], check=True, capture_output=True)


def test_facts_are_those_of_the_graph() -> None:
    library = golden_library()
    conv, linear = library.layers
    assert (conv.op, conv.function, conv.macs) == (
        "conv2d",
        "dq_depthwise2d_3x3s2_few_w2a8_smlad",
        4 * 9 * 16,
    )
    assert (linear.op, linear.macs, linear.arena_offset) == ("linear", 640, None)
    # 4 rows of 9 2-bit codes; 16 rows (10 are used) of 64; bias and multiplier per row; the length of a run.
    assert (conv.weights_bytes, linear.weights_bytes) == (4 * 3 + 4 * 8, 16 * 16 + 16 * 8 + 2)
    assert library.weights_bytes == conv.weights_bytes + linear.weights_bytes
    assert library.macs == 1216


def test_an_unprovable_layer_is_refused() -> None:
    builder = NetworkBuilder(np.random.default_rng(1), alphabet("symmetric-8"), (64,))
    builder.linear("x", 2)
    op = builder.nodes[0].op
    assert isinstance(op, IntegerLinear)
    accumulation = replace(op.accumulation, bias=np.array([2**31 - 1, 0]))
    assert isinstance(accumulation, Accumulation)
    with pytest.raises(ValueError, match="leaves int32"):
        prove(accumulation, 64)
    with pytest.raises(ModelError, match="cannot be proven"):
        choose_kernel(replace(op, accumulation=accumulation), [(64,)], Core(frozenset()), name="fc")


def test_options_are_checked() -> None:
    with pytest.raises(UsageError):
        EmitOptions("int")
    with pytest.raises(UsageError):
        EmitOptions("net", io_layout="chwn")


def test_portable_targets_get_portable_kernels() -> None:
    library = generate(_golden_graph(), PORTABLE, EmitOptions("net"))
    assert {layer.function for layer in library.layers} == {"dq_conv2d_w2a8", "dq_linear_w2a8"}

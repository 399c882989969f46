"""Functions written in assembly: aligned in any section, untouched by instrumentation."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.graph import Graph
from deployq.ops.conv2d import Conv2d
from deployq.ops.output_stage import Bounds
from deployq.ops.window import Window
from deployq.targets import load_target
from deployq.verify.toolchain import compile_objects
from tests.codegen.drawn_kernels import naked_functions, preprocessed
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.harness import Network, write_program
from tests.integer_networks import NetworkBuilder, mobile_network, residual_network, samples

pytestmark = pytest.mark.qemu

_TARGETS = ("cortex-m4", "cortex-m3", "cortex-m0plus", "cortex-m55")


def _networks(target: str) -> list[Network]:
    graphs = [
        make(np.random.default_rng(2), alphabet(letters))
        for make in (residual_network, mobile_network)
        for letters in ("binary", "midrise-2", "midtread-4", "symmetric-8")
    ]
    core = load_target(target)
    return [Network(graph, samples(graph, 2, np.random.default_rng(1)), core) for graph in graphs]


def _depthwise(kernel: tuple[int, int], letters: str) -> Graph:
    """One depthwise layer on random activations, zero point 0: no long sum of them fits 16 bits."""
    builder = NetworkBuilder(np.random.default_rng(1), alphabet(letters), (16, 20, 20), 0)
    weight = np.zeros((16, 1, *kernel), np.float32)
    return builder.graph(
        builder.add(Conv2d(weight, np.zeros(16), Window(kernel), 16, Bounds.none()), "x", extreme="low")
    )


def longest_string(text: str) -> int:
    """Characters of the longest string literal of C, of its pieces together."""
    without_comments = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    literals = re.findall(r'(?:"(?:[^"\\]|\\.)*"\s*)+', without_comments)
    pieces = [re.findall(r'"((?:[^"\\]|\\.)*)"', literal) for literal in literals]
    return max(len(re.sub(r"\\.", "x", "".join(each))) for each in pieces)


@pytest.mark.parametrize("target", _TARGETS)
def test_no_string_is_longer_than_c99_allows(target: str, tmp_path: Path) -> None:
    """Clang refuses it under -Wpedantic -Werror, gcc says nothing."""
    core = load_target(target)
    shapes = ((5, 5), (4, 6), (1, 17), (3, 3))
    graphs = [_depthwise(kernel, letters) for kernel in shapes for letters in ("midrise-2", "midtread-8")]
    networks = [Network(graph, samples(graph, 1, np.random.default_rng(1)), core) for graph in graphs]
    write_program([*networks, *_networks(target)], tmp_path)
    length = longest_string((tmp_path / "dq_kernels.c").read_text())
    assert 500 < length <= 4095


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m3", "cortex-m55"])
def test_they_start_at_a_multiple_of_four(target: str, tmp_path: Path) -> None:
    """`adr` counts from a multiple of four; with a section each, functions may be placed anywhere."""
    require_emulator()
    write_program(_networks(target), tmp_path)
    flags = (*load_target(target).compiler_flags, "-Os", "-ffunction-sections")
    names = naked_functions(preprocessed(tmp_path / "dq_kernels.c", flags))
    objects = compile_objects("arm-none-eabi-gcc", flags, (tmp_path / "dq_kernels.c",), tmp_path)
    headers = subprocess.run(
        ["arm-none-eabi-objdump", "--section-headers", *map(str, objects)],
        capture_output=True,
        text=True,
        check=True,
    )
    alignment = dict(re.findall(r"\.text\.(\w+) .* 2\*\*(\d+)$", headers.stdout, re.M))
    found = {name: int(alignment[name]) for name in names}
    assert len(found) >= 2
    assert min(found.values()) >= 2, found


@pytest.mark.parametrize("target", _TARGETS)
@pytest.mark.parametrize(
    "flags",
    [("-Os", "-ffunction-sections"), ("-O2", "-fstack-protector-all"), ("-O2", "-mno-unaligned-access")],
    ids=" ".join,
)
def test_they_are_exact_under_flags_of_firmware(target: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    require_emulator()
    networks = _networks(target)
    results = run_emulated(networks, load_target(target), tmp_path, flags)
    for network, result in zip(networks, results, strict=True):
        assert np.array_equal(network.expected(), result.outputs), network.graph.name


@pytest.mark.parametrize("target", _TARGETS)
@pytest.mark.parametrize("flag", ["-O0", "-Os", "-O3"])
def test_clang_compiles_them_to_the_same(target: str, flag: str, tmp_path: Path) -> None:
    require_emulator()
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    networks = _networks(target)
    results = run_emulated(networks, load_target(target), tmp_path, (flag,), compiler="clang")
    for network, result in zip(networks, results, strict=True):
        assert np.array_equal(network.expected(), result.outputs), network.graph.name


@pytest.mark.parametrize("target", _TARGETS)
@pytest.mark.parametrize("flag", ["-Os", "-O2"])
def test_all_code_of_the_kernels_is_in_their_section(target: str, flag: str, tmp_path: Path) -> None:
    """At -Os the compiler leaves functions where they are that are meant to be inlined."""
    require_emulator()
    write_program(_networks(target), tmp_path)
    section = '-DDQ_KERNEL_SECTION=__attribute__((section(".fast")))'
    flags = (*load_target(target).compiler_flags, flag, section)
    objects = compile_objects("arm-none-eabi-gcc", flags, (tmp_path / "dq_kernels.c",), tmp_path)
    listed = subprocess.run(
        ["arm-none-eabi-size", "-A", *map(str, objects)], capture_output=True, text=True, check=True
    )
    sizes = {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)", listed.stdout, re.M)}
    assert sizes[".text"] == 0 < sizes[".fast"]

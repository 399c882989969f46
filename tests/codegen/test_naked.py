"""Functions written in assembly: aligned in any section, untouched by instrumentation."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.targets import load_target
from deployq.verify.toolchain import compile_objects
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.harness import Network, write_program
from tests.integer_networks import mobile_network, residual_network, samples

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


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m3", "cortex-m55"])
def test_they_start_at_a_multiple_of_four(target: str, tmp_path: Path) -> None:
    """`adr` counts from a multiple of four; with a section each, functions may be placed anywhere."""
    require_emulator()
    write_program(_networks(target), tmp_path)
    kernels = (tmp_path / "dq_kernels.c").read_text()
    names = set(re.findall(r"DQ_NAKED\s+static void (\w+)|static void DQ_NAKED (\w+)", kernels))
    flags = (*load_target(target).compiler_flags, "-Os", "-ffunction-sections")
    objects = compile_objects("arm-none-eabi-gcc", flags, (tmp_path / "dq_kernels.c",), tmp_path)
    headers = subprocess.run(
        ["arm-none-eabi-objdump", "--section-headers", *map(str, objects)],
        capture_output=True,
        text=True,
        check=True,
    )
    alignment = dict(re.findall(r"\.text\.(\w+) .* 2\*\*(\d+)$", headers.stdout, re.M))
    found = {name: int(alignment[name]) for pair in names for name in pair if name}
    assert len(found) >= 2
    assert min(found.values()) >= 2, found


@pytest.mark.parametrize("target", _TARGETS)
@pytest.mark.parametrize(
    "flags", [("-Os", "-ffunction-sections"), ("-O2", "-fstack-protector-all")], ids=" ".join
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

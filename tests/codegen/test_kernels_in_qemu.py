"""The kernels as the cores run them: DSP instructions, Armv6-M code, alignment."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, write_library
from deployq.layout import to_c_order
from deployq.targets import load_target, target_names
from deployq.verify.qemu import run_qemu
from deployq.verify.reference import run_reference
from tests.integer_networks import mobile_network, residual_network, samples

pytestmark = pytest.mark.qemu

_EMULATED = [name for name in target_names() if load_target(name).machines]


@pytest.mark.parametrize("target", _EMULATED)
@pytest.mark.parametrize("letters", ["binary", "midtread-3", "midrise-8"])
def test_networks_are_exact(target: str, letters: str, tmp_path: Path) -> None:
    if shutil.which("qemu-system-arm") is None or shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("qemu-system-arm or arm-none-eabi-gcc is not installed")
    make = mobile_network if letters == "midtread-3" else residual_network
    rng = np.random.default_rng(4)
    graph = make(rng, alphabet(letters))
    batch = samples(graph, 4, rng)
    write_library(generate(graph, load_target(target), EmitOptions("net")), tmp_path)
    expected = to_c_order(run_reference(graph, batch), "nhwc")
    result = run_qemu(tmp_path, "net", load_target(target), to_c_order(batch, "nhwc"), expected.shape[1])
    assert np.array_equal(result.outputs, expected)

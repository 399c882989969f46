"""Every kernel against the Python integer operators, on the host under sanitizers."""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.optimize import build_schedule
from deployq.ops import WeightedOperator
from deployq.targets import Target
from tests.codegen.harness import DSP, PORTABLE, SANITIZE, Network, run_program, write_program
from tests.integer_networks import ALPHABETS, NETWORKS, operator_cases, samples, single_node

pytestmark = pytest.mark.slow

_WEIGHTED = [(kind, case) for kind, case in operator_cases() if isinstance(case.op, WeightedOperator)]
_OTHERS = [(kind, case) for kind, case in operator_cases() if not isinstance(case.op, WeightedOperator)]


def _weighted_networks(target: Target) -> dict[str, Network]:
    """Every weighted case in every alphabet; zero points and extreme weights in turn."""
    networks = {}
    turns = [(None, ""), (-128, "low"), (127, "high"), (127, ""), (-128, "high"), (0, "low")]
    for index, letters in enumerate(ALPHABETS):
        for number, (kind, case) in enumerate(_WEIGHTED):
            zero_point, extreme = turns[(index + number) % len(turns)]
            rng = np.random.default_rng(zlib.crc32(f"{letters.name}{kind}{case.name}".encode()))
            graph = single_node(case, letters, rng, zero_point, extreme)
            name = f"{kind} {case.name}, {letters.name}, zero point {zero_point} {extreme}"
            networks[name] = Network(graph, samples(graph, 5, rng), target)
    return networks


def _other_networks() -> dict[str, Network]:
    networks = {}
    for kind, case in _OTHERS:
        for zero_point in (-128, 127, None):
            rng = np.random.default_rng(zlib.crc32(f"{kind}{case.name}{zero_point}".encode()))
            graph = single_node(case, alphabet("binary"), rng, zero_point)
            for layout in ("nhwc", "nchw"):
                name = f"{kind} {case.name}, {layout}, zero point {zero_point}"
                networks[name] = Network(graph, samples(graph, 6, rng), PORTABLE, layout)
    return networks


def _whole_networks() -> dict[str, Network]:
    networks = {}
    for number, make in enumerate(NETWORKS):
        for index, letters in enumerate(ALPHABETS):
            rng = np.random.default_rng(number * 100 + index)
            graph = make(rng, letters)
            batch = samples(graph, 6, rng)
            layout = ("nhwc", "nchw")[index % 2]
            for target in (PORTABLE, DSP):
                name = f"{graph.name}, {letters.name}, {target.name}, {layout}"
                networks[name] = Network(graph, batch, target, layout)
    return networks


#: Kernels with many variants: tests of their own draw layers until all are reached.
_DRAWN = re.compile("_fields|_linked|_masked|_pairs|depthwise2d_.*_smlad")

_GROUPS: dict[str, Callable[[], dict[str, Network]]] = {
    "weighted, portable": lambda: _weighted_networks(PORTABLE),
    "weighted, dsp": lambda: _weighted_networks(DSP),
    "others": _other_networks,
    "networks": _whole_networks,
}


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("group", _GROUPS)
def test_kernels_equal_the_integer_operators(group: str, compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    networks = _GROUPS[group]()
    write_program(list(networks.values()), tmp_path)
    outputs = run_program(list(networks.values()), tmp_path, compiler, SANITIZE)
    wrong = [
        name
        for (name, network), found in zip(networks.items(), outputs, strict=True)
        if not np.array_equal(network.expected(), found)
    ]
    assert not wrong


def test_the_cases_reach_every_kernel() -> None:
    networks = [network for make in _GROUPS.values() for network in make().values()]
    used = {
        step.call.function
        for network in networks
        for step in build_schedule(network.graph, network.target.features, network.io_layout).steps
    }
    expected = {
        f"dq_{kind}_w{bits}a8" for kind in ("conv2d", "linear", "depthwise2d") for bits in range(1, 9)
    }
    expected |= {"dq_linear_w1a8_smlad", "dq_linear_w2a8_smlad"}  # few outputs
    expected |= {
        f"dq_{name}_a8" for name in ("add", "clip", "softmax", "maxpool2d", "averagepool2d", "transpose")
    }
    assert {name for name in used if not _DRAWN.search(name)} == expected

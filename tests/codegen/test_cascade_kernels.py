"""Networks whose layers are executed depth first, on the host and on the cores, against the reference."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.cascade_search import Span
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, GeneratedLibrary, write_library
from deployq.codegen.kernels import Core
from deployq.graph import Graph
from deployq.layout import to_c_order
from deployq.ops.clip import Clip
from deployq.ops.maxpool2d import MaxPool2d
from deployq.ops.window import Window
from deployq.targets import Target, load_target
from deployq.verify.host import run_host
from deployq.verify.reference import run_reference
from tests.codegen.cascade_networks import DrawnNetwork, Striper
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.harness import (
    DSP,
    HELIUM,
    PORTABLE,
    SANITIZE,
    Network,
    forced_schedule,
    run_program,
    write_program,
)
from tests.integer_networks import Int8Array, NetworkBuilder, residual_network, samples

#: The C forms of the kernels of cores without DSP instructions.
_ARMV7M = Target("armv7m", "", "host", "", (), frozenset({"armv7m"}), 4, ())
_ARMV6M = Target("armv6m", "", "host", "", (), frozenset({"armv6m"}), 4, ())


@cache
def _networks(core: Target, seeds: range) -> list[Network]:
    """Drawn networks, most layers of which are in cascades of stripes of 1, 2 or 4 rows."""
    return [_network(core, seed) for seed in seeds]


def _network(core: Target, seed: int) -> Network:
    graph = DrawnNetwork(seed).graph()
    io_layout = ("nhwc", "nchw")[seed % 2]
    optimize = ("balanced", "balanced", "ram", "speed", "flash")[seed % 5]
    spans = Striper(graph, Core(core.features, optimize), io_layout).drawn_spans((1, 2, 4), seed)
    assert spans
    batch = samples(graph, 4, np.random.default_rng(seed))
    return Network(graph, batch, core, io_layout, optimize, spans)


def _functions(networks: Sequence[Network]) -> set[str]:
    """The kernels that compute stripes."""
    return {
        call.function
        for network in networks
        for cascade in network.schedule().cascades
        for calls in cascade.calls.values()
        for call in calls
    }


#: What computes stripes in the batches below.
_REACHED = {
    "cortex-m4": (
        "conv2d_w1.*_pairs", "conv2d_w2.*_pairs.*_ring", "conv2d_w3a8_smlad", "conv2d_w4.*_linked",
        "conv2d_w8.*_masked", "pairs_pixel|masked_pixel", "depthwise2d_3x3s1_.*smlad",
        "depthwise2d_3x3s2_.*smlad", "maxpool2d", "averagepool2d", "add", "clip",
    ),
    "cortex-m3": (
        "conv2d_w1a8_planes", "conv2d_w2a8_planes", "conv2d_w3a8_planes", "conv2d_w4a8_planes", "conv2d_w8a8",
        "depthwise2d_3x3", "maxpool2d", "averagepool2d", "add", "clip",
    ),
    "cortex-m0plus": (
        "conv2d_w1a8_planes", "conv2d_w2a8_planes", "conv2d_w3a8_planes", "conv2d_w4a8_planes", "conv2d_w8a8",
        "depthwise2d_3x3", "maxpool2d", "averagepool2d", "add", "clip",
    ),
    "cortex-m55": (
        "conv2d_w1a8_mve", "conv2d_w2a8_mve", "conv2d_w4a8_mve", "conv2d_w8a8_mve",
        "depthwise2d_w.*_mve", "averagepool2d_a8_mve", "add_a8_mve", "maxpool2d", "clip",
    ),
}  # fmt: skip

_SEEDS = range(24)


@pytest.mark.slow
@pytest.mark.parametrize("target", _REACHED)
def test_the_networks_reach_every_family(target: str) -> None:
    networks = _networks(load_target(target), _SEEDS)
    functions = _functions(networks)
    missing = [name for name in _REACHED[target] if not any(re.search(name, one) for one in functions)]
    assert not missing
    assert {span.rows for network in networks for span in network.spans} == {1, 2, 4}
    assert {len(network.spans) for network in networks} >= {1, 2}


def _assert_exact(networks: Sequence[Network], outputs: Sequence[Int8Array]) -> None:
    wrong = [
        (network.graph.name, network.spans)
        for network, found in zip(networks, outputs, strict=True)
        if not np.array_equal(network.expected(), found)
    ]
    assert not wrong


#: Core, compiler, networks.
_ON_HOST = (
    (DSP, "gcc", range(100, 107)),
    (HELIUM, "gcc", range(110, 114)),
    (PORTABLE, "gcc", range(115, 118)),
    (_ARMV7M, "gcc", range(120, 123)),
    (_ARMV6M, "gcc", range(125, 128)),
    (DSP, "clang", range(130, 133)),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("core", "compiler", "seeds"), _ON_HOST, ids=lambda value: getattr(value, "name", None)
)
def test_cascades_are_exact_on_the_host(core: Target, compiler: str, seeds: range, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    networks = _networks(core, seeds)
    write_program(networks, tmp_path)
    _assert_exact(networks, run_program(networks, tmp_path, compiler, SANITIZE))


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("target", "flags", "seeds"),
    [
        ("cortex-m4", ("-O2",), _SEEDS),
        ("cortex-m4", ("-Os", "-DDQ_NO_ASM"), range(30, 38)),
        ("cortex-m3", ("-O2",), _SEEDS),
        ("cortex-m0plus", ("-O2",), _SEEDS),
        ("cortex-m55", ("-O2",), _SEEDS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_cascades_are_exact_on_the_cores(
    target: str, flags: tuple[str, ...], seeds: range, tmp_path: Path
) -> None:
    require_emulator()
    core = load_target(target)
    networks = _networks(core, seeds)
    results = run_emulated(networks, core, tmp_path, flags)
    _assert_exact(networks, [result.outputs for result in results])


def _library(graph: Graph, core: Target, spans: tuple[Span, ...], *, single_file: bool) -> GeneratedLibrary:
    """A library with forced cascades."""
    schedule = forced_schedule(graph, core.features, "nhwc", "balanced", spans)
    assert len(schedule.cascades) == len(spans)
    return generate(graph, core, EmitOptions("net", single_file=single_file), schedule)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_single_file_is_exact(compiler: Literal["gcc", "clang"], tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    graph = residual_network(np.random.default_rng(3), alphabet("midrise-2"))
    write_library(_library(graph, DSP, (Span(0, 3, 1), Span(3, 6, 2)), single_file=True), tmp_path)
    assert not (tmp_path / "net_weights.c").exists()
    batch = samples(graph, 4, np.random.default_rng(1))
    expected = to_c_order(run_reference(graph, batch), "nhwc")
    given = to_c_order(batch, "nhwc")
    found = run_host(tmp_path, "net", given, expected.shape[1], compiler=compiler, sanitize=compiler == "gcc")
    assert np.array_equal(found.outputs, expected)


@pytest.mark.slow
def test_rolling_buffers_beyond_sixteen_bits_are_exact(tmp_path: Path) -> None:
    """Forty lines of 2,048 bytes are kept."""
    builder = NetworkBuilder(np.random.default_rng(3), alphabet("binary"), (32, 60, 64))
    high = MaxPool2d(Window((40, 1), (3, 1)))
    graph = builder.graph(builder.add(high, builder.add(Clip(-1.0, 1.0), "x")))
    network = Network(graph, samples(graph, 4, np.random.default_rng(1)), PORTABLE, spans=(Span(0, 2, 2),))
    write_program([network], tmp_path)
    assert re.search(r"uint32_t to;\s", (tmp_path / "net0.c").read_text())
    _assert_exact([network], run_program([network], tmp_path, "gcc", SANITIZE))

"""The kernels of sparse weights against the reference: on the host under sanitizers, and in QEMU."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, write_library
from deployq.codegen.packing.gaps import GAP_FORMATS, GapFormat
from deployq.graph import Graph
from deployq.layout import to_c_order
from deployq.targets import load_target, target_names
from deployq.verify.qemu import QemuResult, run_qemu
from deployq.verify.reference import run_reference
from tests.codegen.harness import DSP, PORTABLE, SANITIZE, Network, run_program, write_program
from tests.codegen.sparse_networks import conv_graph, forced_format, linear_graph, random_levels
from tests.integer_networks import dense_network, flattening_network, residual_network, samples

_FORMATS = pytest.mark.parametrize("layout", GAP_FORMATS, ids=["4 bits", "8 bits"])


def _graphs() -> dict[str, Network]:
    """Layers of every density and list length, extreme zero points; whole networks; both layouts."""
    empty = np.zeros((3, 70), np.int16)
    one_sided = np.abs(random_levels(5, 90, 0.4))
    cases = {
        "empty rows": empty,
        "full rows": empty + 1,
        "full rows of minus": empty - 1,
        "only plus": one_sided,
        "only minus": -one_sided,
        "one weight": np.ones((1, 1), np.int16),
        "last weight": np.eye(1, 600, 599, dtype=np.int16),
        "first weight": -np.eye(1, 600, 0, dtype=np.int16),
        "a row between empty ones": np.concatenate([empty, empty - 1, empty]),
        "lists of every length": np.tril(np.ones((21, 20), np.int16)) * np.int16(-1),
        **{f"density {d}": random_levels(9, 611, d) for d in (0.003, 0.05, 0.3, 0.9)},
    }
    networks = {}
    for name, levels in cases.items():
        for zero_point in (-128, 0, 127):
            graph = linear_graph(levels, zero_point)
            batch = samples(graph, 5, np.random.default_rng(1))
            # Every product of the first rows at its lowest, then at its highest.
            extremes = [np.where(levels[:3] > 0, low, ~low).astype(np.int8) for low in (-128, 127)]
            target = (PORTABLE, DSP)[zero_point > 0]
            batch = np.concatenate([batch, *extremes])
            networks[f"{name}, zero point {zero_point}"] = Network(graph, batch, target)
    for name, graph in _convolutions().items():
        for target in (PORTABLE, DSP):
            batch = samples(graph, 5, np.random.default_rng(1))
            networks[f"{name}, {target.name}"] = Network(graph, batch, target)
    for make in (residual_network, flattening_network, dense_network):
        for layout in ("nhwc", "nchw"):
            rng = np.random.default_rng(5)
            graph = make(rng, alphabet("ternary"))
            networks[f"{graph.name}, {layout}"] = Network(graph, samples(graph, 5, rng), DSP, layout)
    return networks


def _convolutions() -> dict[str, Graph]:
    """Kernels of one and more pixels, strides, groups, odd widths, several blocks, extreme zero points."""
    empty = np.zeros((3, 18), np.int16)
    return {
        "1x1": conv_graph(random_levels(7, 20, 0.3), (4, 5), 1, zero_point=127),
        "1x1, stride 2": conv_graph(random_levels(4, 20, 0.3), (5, 5), 1, stride=2, zero_point=-128),
        "1x1, groups": conv_graph(random_levels(6, 10, 0.3), (3, 4), 1, groups=3),
        "3x3": conv_graph(random_levels(5, 90, 0.3), (5, 6), 3, zero_point=-128),
        "3x3, groups": conv_graph(random_levels(6, 27, 0.4), (4, 3), 3, groups=2, zero_point=127),
        "3x3, stride 2": conv_graph(random_levels(4, 27, 0.1), (6, 7), 3, stride=2),
        "5x5, one pixel": conv_graph(random_levels(3, 50, 0.5), (1, 1), 5),
        "several blocks": conv_graph(random_levels(3, 900, 0.02), (2, 9), 3, zero_point=-128),
        "empty and full rows": conv_graph(np.concatenate([empty, empty + 1, empty - 1]), (3, 5), 3),
    }


@_FORMATS
@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_kernels_equal_the_integer_operators(layout: GapFormat, compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    networks = _graphs()
    with forced_format(layout):
        libraries = write_program(list(networks.values()), tmp_path)
    for library in libraries:
        for layer in library.layers:
            sparse = layer.weight_bits > 0 and "depthwise" not in layer.function
            assert not sparse or layer.function == f"dq_{layer.op}_gaps{layout.bits}_a8"
    outputs = run_program(list(networks.values()), tmp_path, compiler, SANITIZE)
    wrong = [
        name
        for (name, network), found in zip(networks.items(), outputs, strict=True)
        if not np.array_equal(network.expected(), found)
    ]
    assert not wrong


_EMULATED = [name for name in target_names() if load_target(name).machines]


_LAYERS = {
    "linear": lambda density: linear_graph(random_levels(40, 400, density), -128),
    "conv2d": lambda density: conv_graph(random_levels(64, 576, density), (3, 4), 3, zero_point=-128),
}


def _run(directory: Path, target: str, graph: Graph, layout: GapFormat | str | None) -> QemuResult:
    """A layer in QEMU, exact; `layout` "chosen" leaves the format to code generation."""
    if shutil.which("qemu-system-arm") is None or shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("qemu-system-arm or arm-none-eabi-gcc is not installed")
    batch = samples(graph, 4, np.random.default_rng(1))
    with nullcontext() if isinstance(layout, str) else forced_format(layout):
        library = generate(graph, load_target(target), EmitOptions("net"))
    write_library(library, directory)
    expected = to_c_order(run_reference(graph, batch), "nhwc")
    result = run_qemu(directory, "net", load_target(target), to_c_order(batch, "nhwc"), expected.shape[1])
    assert np.array_equal(result.outputs, expected)
    return result


@pytest.mark.qemu
@_FORMATS
@pytest.mark.parametrize("target", _EMULATED)
@pytest.mark.parametrize("kind", _LAYERS)
def test_cores_compute_the_same(kind: str, layout: GapFormat, target: str, tmp_path: Path) -> None:
    _run(tmp_path, target, _LAYERS[kind](0.1), layout)


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("target", "density"), [("cortex-m4", 0.05), ("cortex-m3", 0.1), ("cortex-m0plus", 0.1)]
)
@pytest.mark.parametrize("kind", _LAYERS)
def test_the_chosen_format_takes_fewer_instructions(
    kind: str, target: str, density: float, tmp_path: Path
) -> None:
    graph = _LAYERS[kind](density)
    chosen = _run(tmp_path / "chosen", target, graph, "chosen")
    dense = _run(tmp_path / "dense", target, graph, None)
    assert "_gaps" in (tmp_path / "chosen" / "net.c").read_text()
    assert "_gaps" not in (tmp_path / "dense" / "net.c").read_text()
    assert chosen.instructions_per_inference < dense.instructions_per_inference

"""Layers of cascades one by one: what the hooks in the generated C tell of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.bench.directory import layer_functions
from deployq.bench.profile import profile
from deployq.codegen.cascade_search import Span
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, GeneratedLibrary, write_library
from deployq.graph import Graph
from deployq.layerwise import IntegerModel
from deployq.layout import to_c_order
from deployq.ops.add import Add
from deployq.steps import export_onnx, traced_layers
from deployq.targets import Target, load_target
from deployq.verify.executors import Subject, Verification, verify_library
from deployq.verify.host import run_host
from deployq.verify.qemu import EmulationRequest, run_qemu
from deployq.verify.reference import run_reference, run_reference_layers
from tests.codegen.harness import STRICT, forced_schedule
from tests.integer_networks import NetworkBuilder, samples
from tests.tools import needs_tools

_SPANS = (Span(0, 3, 2), Span(3, 7, 1))


def _graph() -> Graph:
    """Two cascades, of which the second has an addition, and a layer after them."""
    builder = NetworkBuilder(np.random.default_rng(4), alphabet("midrise-2"), (3, 20, 12))
    x = builder.conv(builder.conv(builder.conv("x", 8, 3), 8, 3, groups=8), 12, 1)
    y = builder.conv(builder.conv(x, 12, 3, groups=12), 12, 1)
    both = builder.add(Add(), y, x)
    return builder.graph(builder.conv(builder.conv(both, 8, 3, 2), 4, 1))


def _write(directory: Path, graph: Graph, target: Target) -> GeneratedLibrary:
    """The library with its cascades."""
    schedule = forced_schedule(graph, target.features, "nhwc", "balanced", _SPANS)
    assert len(schedule.cascades) == 2
    library = generate(graph, target, EmitOptions("net"), schedule)
    assert [layer.stripes > 1 for layer in library.layers] == [True] * 7 + [False]
    write_library(library, directory)
    return library


@pytest.mark.slow
@needs_tools("gcc")
def test_the_stripes_of_a_layer_join_to_its_output(tmp_path: Path) -> None:
    graph = _graph()
    _write(tmp_path, graph, load_target("cortex-m4"))
    batch = samples(graph, 5, np.random.default_rng(1))
    expected = [to_c_order(values, "nhwc") for values in run_reference_layers(graph, batch)]
    result = run_host(tmp_path, "net", to_c_order(batch, "nhwc"), expected[-1].shape[1], layers=True)
    assert result.layer_outputs is not None
    for found, wanted in zip(result.layer_outputs, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def _verified(directory: Path, graph: Graph, library: GeneratedLibrary, target: Target) -> Verification:
    network = IntegerModel(graph, {})
    batch = samples(graph, 6, np.random.default_rng(1))
    subject = Subject(
        model=export_onnx(network, library).SerializeToString(),
        layers=traced_layers(network, library),
        firmware=directory,
        prefix="net",
        target=target,
        io_layout="nhwc",
        samples=batch,
        expected=run_reference(graph, batch),
    )
    return verify_library(subject, qemu_samples=2, strict=False)


def _break_weights(directory: Path, layer: int) -> None:
    """Other codes in all weights of a layer."""
    path = directory / "net_weights.c"
    head, values, tail = re.split(
        rf"(?<=net_layer{layer}_weights)(\[\d+\] = \{{.*?\}};)", path.read_text(), maxsplit=1, flags=re.DOTALL
    )
    start = values.index("{")
    broken = re.sub(r"\b(0x[0-9a-f]+|\d+)", lambda found: str(int(found[1], 0) ^ 0x33), values[start:])
    assert broken != values[start:]
    path.write_text(head + values[:start] + broken + tail)


@pytest.mark.slow
@needs_tools("gcc", "clang")
@pytest.mark.parametrize("layer", [2, 6])
def test_a_wrong_layer_of_a_cascade_is_named(layer: int, tmp_path: Path) -> None:
    graph, target = _graph(), load_target("host")
    library = _write(tmp_path, graph, target)
    _break_weights(tmp_path, layer)
    found = _verified(tmp_path, graph, library, target).outcomes["host"]
    assert found.mismatches > 0 and found.difference is not None
    assert found.difference.layer == library.layers[layer].name
    assert found.difference.expected != found.difference.found


@pytest.mark.qemu
@needs_tools("gcc", "clang", "arm-none-eabi-gcc", "qemu-system-arm")
def test_a_wrong_layer_of_a_cascade_is_named_on_the_core(tmp_path: Path) -> None:
    graph, target = _graph(), load_target("cortex-m4")
    library = _write(tmp_path, graph, target)
    _break_weights(tmp_path, 4)
    found = _verified(tmp_path, graph, library, target).outcomes["qemu"].difference
    assert found is not None and found.layer == library.layers[4].name


@pytest.mark.qemu
@needs_tools("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m0plus"])
def test_the_instructions_of_layers_sum_up_to_the_whole(target: str, tmp_path: Path) -> None:
    graph, core = _graph(), load_target(target)
    library = _write(tmp_path, graph, core)
    batch = to_c_order(samples(graph, 3, np.random.default_rng(1)), "nhwc")
    size = graph.tensors[graph.output].size
    result = run_qemu(tmp_path, "net", core, batch, size, layers=True)
    assert result.layer_instructions is not None
    assert min(result.layer_instructions) > 0
    total = result.instructions_per_inference
    # The rest are the loop over the table and the moves.
    assert 0.95 * total < sum(result.layer_instructions) <= total

    functions = layer_functions(tmp_path / "net.c", len(library.layers))
    assert functions == tuple(layer.function for layer in library.layers)
    found = profile(EmulationRequest(tmp_path, "net", core, size, "-O2", 60.0, ()), batch)
    for index, count in enumerate(result.layer_instructions):
        stripes = library.layers[index].stripes
        assert abs(found.layer(index).instructions - count) <= 12 * stripes


@pytest.mark.slow
@needs_tools("gcc")
def test_the_profile_of_the_example_program_leaves_out_the_hooks_of_every_stripe(tmp_path: Path) -> None:
    """A clock that stands still but while it is read: layers take no time, whatever their stripes."""
    library = _write(tmp_path, _graph(), load_target("host"))
    (tmp_path / "clock.h").write_text("extern unsigned ticks;\n#define DQ_PROFILE_CYCLES() (ticks += 10u)\n")
    (tmp_path / "clock.c").write_text("unsigned ticks;\n")
    sources = [str(tmp_path / name) for name in ("main.c", "net_weights.c", "dq_kernels.c", "clock.c")]
    command = ["gcc", *STRICT, "-O1", "-DDQ_PROFILE", "-include", str(tmp_path / "clock.h"), *sources]
    program = tmp_path / "program"
    built = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[:3000]
    printed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    for layer in library.layers:
        line = rf"^{re.escape(layer.name)} +{layer.function} +{layer.macs} +0\b"
        assert re.search(line, printed, re.MULTILINE), printed
    calls = sum(layer.stripes for layer in library.layers)
    total = re.search(r"^all +net_run +\d+ +(\d+)", printed, re.MULTILINE)
    assert total is not None and int(total[1]) == 10 * (2 * calls + 1)

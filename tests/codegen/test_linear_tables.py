"""Fully connected layers by tables of sums: packing, proofs, choice, and exactness."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.alphabet import alphabet
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions
from deployq.codegen.kernels import linear_tables, weighted
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.linear_costs import tables_cost
from deployq.codegen.optimize import build_schedule
from deployq.codegen.packing.plane_chunks import PlaneChunkFormat
from deployq.graph import Graph
from deployq.ops import KernelCall
from deployq.ops.linear import IntegerLinear, Linear
from deployq.targets import Target, load_target
from tests.codegen.batches import check_on_core, check_on_host, drawn, networks
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.families import family
from tests.codegen.harness import Network, run_program, write_program
from tests.codegen.linear_layers import LinearLayer
from tests.codegen.test_plane_kernels import V6M, V7M
from tests.integer_networks import ALPHABETS, NetworkBuilder, samples

_LAYERS = family("table linear").layers

#: Layers of a batch.
_COUNT = 50


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is taken for every layer, also where another one is faster."""
    monkeypatch.setattr(linear_tables, "pays", lambda *given: True)


@given(
    bits=st.integers(1, 8),
    tables=st.sampled_from((1, 4)),
    multiple=st.sampled_from((1, 2, 4)),
    channels=st.integers(1, 9),
    taps=st.integers(1, 90),
    seed=st.integers(0, 99),
)
def test_plane_chunks_round_trip(
    bits: int, tables: int, multiple: int, channels: int, taps: int, seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (channels, taps)).astype(np.uint8)
    layout = PlaneChunkFormat(bits, tables, multiple)
    packed = layout.pack(codes)
    assert packed.size == -(-taps // 8) * bits * layout.padded(channels)
    assert np.array_equal(layout.unpack(packed, channels, taps), codes)


def test_places_of_codes_are_as_described() -> None:
    codes = np.zeros((3, 43), np.uint8)
    codes[1, 11] = 2  # in the whole chunk: byte 1 of the high plane of channel 1
    codes[2, 42] = 1  # in the second chunk of one byte: bit 2 of the low plane of channel 2
    packed = PlaneChunkFormat(2, 4, 4).pack(codes)
    assert dict(zip(np.flatnonzero(packed).tolist(), packed[packed > 0].tolist(), strict=True)) == {
        8 + 1: 1 << 3,
        4 * 8 + 4 * 2 + 2 * 2 + 1: 1 << 2,
    }


def test_the_format_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="no chunks"):
        PlaneChunkFormat(9, 4, 4)
    with pytest.raises(ValueError, match="does not fit"):
        PlaneChunkFormat(1, 4, 4).pack(np.full((1, 1), 2, np.uint8))


@pytest.mark.slow
@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(
    ("batch", "compiler", "target"), [(0, "gcc", V6M), (1, "gcc", V7M), (2, "clang", V6M), (3, "clang", V7M)]
)
def test_layers_are_exact_on_the_host(batch: int, compiler: str, target: Target) -> None:
    check_on_host(drawn(_LAYERS, batch, _COUNT), target, compiler)


def _two_layers(letters: str) -> Graph:
    """Layers whose input lies in the arena, where the output may overwrite it."""
    builder = NetworkBuilder(np.random.default_rng(7), alphabet(letters), (65,), -128)
    wide = builder.add(Linear(np.zeros((130, 65), np.float32), np.zeros(130)), "x")
    narrow = builder.add(Linear(np.zeros((61, 130), np.float32), np.zeros(61)), wide)
    return builder.graph(builder.add(Linear(np.zeros((700, 61), np.float32), np.zeros(700)), narrow))


def _networks(core: Target) -> list[Network]:
    graphs = [_two_layers(letters.name) for letters in ALPHABETS]
    return [Network(graph, samples(graph, 3, np.random.default_rng(1)), core) for graph in graphs]


@pytest.fixture(params=[1, 4], ids=["whole", "quarter"])
def scratch_share(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the usual scratch memory, or so little that tables are built one at a time, slice by slice."""
    monkeypatch.setattr(Core, "scratch", lambda core, usual: usual // request.param)


@pytest.mark.usefixtures("everywhere", "scratch_share")
@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
def test_layers_in_the_arena_are_exact_on_the_host(core: Target, tmp_path: Path) -> None:
    batch = _networks(core)
    write_program(batch, tmp_path)
    for network, found in zip(batch, run_program(batch, tmp_path, "gcc", ["-O1"]), strict=True):
        assert np.array_equal(network.expected(), found), network.graph.name


@pytest.mark.qemu
@pytest.mark.usefixtures("everywhere", "scratch_share")
@pytest.mark.parametrize(
    ("target", "flags", "compiler"),
    [
        ("cortex-m3", ("-O2",), "gcc"),
        ("cortex-m0plus", ("-O2",), "gcc"),
        ("cortex-m0plus", ("-O2", "-fstack-protector-all"), "gcc"),
        ("cortex-m3", ("-Os",), "clang"),
        ("cortex-m0plus", ("-O0",), "clang"),
        ("cortex-m0plus", ("-O3",), "clang"),
    ],
)
def test_layers_in_the_arena_are_exact_on_the_cores(
    target: str, flags: tuple[str, ...], compiler: str, tmp_path: Path
) -> None:
    require_emulator()
    core = load_target(target)
    batch = _networks(core)
    for network, result in zip(batch, run_emulated(batch, core, tmp_path, flags, compiler), strict=True):
        assert np.array_equal(network.expected(), result.outputs), network.graph.name


def _call(case: LinearLayer, target: Target) -> KernelCall:
    (step,) = build_schedule(case.graph(), target.features, "nhwc").steps
    return step.call


def _shifted() -> list[LinearLayer]:
    """Layers of few inputs: one unit of the accumulator is more than half a unit of the output."""
    cases = [
        LinearLayer(inputs, 9, letters="binary", zero_point=3, extreme=extreme, seed=5)
        for inputs in (1, 2)
        for extreme in ("", "low")
    ]
    assert all(_call(case, V6M).parameters["out.stage.shift"] > 0 for case in cases)
    return cases


@pytest.mark.usefixtures("everywhere")
def test_shifted_accumulators_are_exact_on_the_host() -> None:
    check_on_host(_shifted(), V6M, "gcc")


@pytest.mark.qemu
@pytest.mark.usefixtures("everywhere")
def test_shifted_accumulators_are_exact_on_the_core() -> None:
    check_on_core(_shifted(), "cortex-m0plus")


def _case(inputs: int, outputs: int, letters: str = "midrise-2") -> LinearLayer:
    return LinearLayer(inputs, outputs, letters=letters, zero_point=-128)


@pytest.mark.parametrize(
    ("inputs", "outputs", "letters", "v6m", "v7m"),
    [
        (640, 128, "midrise-2", "tables_halves", "tables"),
        (128, 8, "midrise-2", "halfwords_halves", "halfwords"),
        (64, 32, "midrise-2", "tables_halves", "halfwords"),
        (128, 128, "midtread-4", "tables_halves", "halfwords"),
        (128, 4, "symmetric-8", "", "long"),
    ],
)
def test_the_faster_kernel_is_chosen(inputs: int, outputs: int, letters: str, v6m: str, v7m: str) -> None:
    for target, name in ((V6M, v6m), (V7M, v7m)):
        function = f"dq_linear_w{alphabet(letters).bits}a8{'_' if name else ''}{name}"
        assert _call(_case(inputs, outputs, letters), target).function == function


def _table_call(case: LinearLayer, optimize: str = "balanced") -> KernelCall:
    """The family's own call for Armv6-M."""
    operator = case.graph().nodes[-1].op
    assert isinstance(operator, IntegerLinear)
    call = linear_tables.linear(weighted.LinearLayer(operator, None), Core(V6M.features, optimize))
    assert call is not None
    return call


def test_scratch_memory_is_planned_exactly() -> None:
    calls = {optimize: _table_call(_case(128, 640), optimize) for optimize in ("balanced", "ram")}
    tables = {name: (call.parameters["tables"], call.parameters["slice"]) for name, call in calls.items()}
    assert tables == {"balanced": (4, 320), "ram": (1, 128)}
    assert {name: call.scratch_bytes for name, call in calls.items()} == {"balanced": 3328, "ram": 1024}
    assert {name: call.lead for name, call in calls.items()} == {"balanced": None, "ram": None}
    assert _table_call(_case(128, 128)).lead == -128


@pytest.mark.qemu
@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m3"])
def test_the_estimate_is_what_is_counted(target: str, tmp_path: Path) -> None:
    require_emulator()
    core = load_target(target)
    cases = [
        _case(inputs, outputs, letters)
        for inputs, outputs in ((640, 128), (128, 128), (40, 24), (20, 130))
        for letters in ("binary", "midrise-2", "midtread-4")
    ]
    counted = run_emulated(networks(cases, core), core, tmp_path)
    for case, result in zip(cases, counted, strict=True):
        operator = case.graph().nodes[-1].op
        assert isinstance(operator, IntegerLinear)
        layer, features = weighted.LinearLayer(operator, None), Core(core.features)
        plan = linear_tables.plan_layer(layer, features)
        layout = linear_tables.weight_format(layer, plan)
        estimate = tables_cost(features, layout, case.inputs, case.outputs, plan.slice)
        assert abs(estimate / result.instructions - 1) < 0.05, (case, estimate, result.instructions)


@pytest.mark.parametrize(("bias", "applies"), [(0, True), (1, False)])
def test_a_bias_one_past_the_proof_is_refused(bias: int, applies: bool) -> None:
    """Inputs and codes of 255 and 3 for two inputs, and offsets of 3: what is left of int32 is the bias's."""
    operator = LinearLayer(2, 1, letters="midrise-2", zero_point=0, extreme="high").graph().nodes[-1].op
    assert isinstance(operator, IntegerLinear)
    room = 2**31 - 1 - 2 * 255 * 2 * 3 - 2 * 255 * 3
    levels = operator.accumulation.weights.levels.astype(np.int64)
    raised = room + 128 * int(levels.sum()) + bias
    layer = weighted.LinearLayer(_with_bias(operator, raised), None)
    assert (linear_tables.shifted_bias(layer) is not None) is applies


def _with_bias(operator: IntegerLinear, bias: int) -> IntegerLinear:
    accumulation = replace(operator.accumulation, bias=np.array([bias]))
    assert accumulation.folded_bias.tolist() == [bias], "the zero point is 0"
    return replace(operator, accumulation=accumulation)


def test_no_string_of_assembly_is_too_long_for_c99() -> None:
    """C99 promises 4,095 characters; eight planes make the longest."""
    library = generate(_case(640, 128, "symmetric-8").graph(), V6M, EmitOptions("net"))
    statements = re.findall(r"__asm__ volatile\(\n(.*?)\);\n", library.files["dq_kernels.c"], re.S)
    lengths = [sum(map(len, re.findall(r'"(.*?)"', text))) for text in statements]
    assert len(lengths) >= 6
    assert 2000 < max(lengths) <= 4095

"""Convolutions with two output channels a lane against the operator: on the host, and in QEMU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.arithmetic import Int64Array
from deployq.codegen.arena import plan_arena
from deployq.codegen.kernels.fields_layer import PairCode, channel_table, pair_code
from deployq.codegen.optimize import build_schedule
from deployq.graph import Graph
from deployq.ops import KernelCall
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.window import Window
from deployq.targets import load_target
from tests.codegen.batches import BATCH, check_on_core, check_on_host
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.families import family
from tests.codegen.fields_conv2d_layers import PAIR_ALPHABETS, FieldsLayer, drawn_layers, rare_layers
from tests.codegen.harness import DSP, SANITIZE, Network, run_program, write_program
from tests.integer_networks import samples


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "compiler"), [(11, "gcc"), (12, "gcc"), (13, "clang")])
def test_layers_are_exact_on_the_host(seed: int, compiler: str) -> None:
    check_on_host(drawn_layers(seed, BATCH), DSP, compiler)


@pytest.mark.slow
def test_rare_layers_are_exact_on_the_host() -> None:
    check_on_host(rare_layers(), DSP, "gcc")


@pytest.mark.qemu
@pytest.mark.parametrize("flags", [("-O2",), ("-O2", "-DDQ_NO_ASM")])
def test_rare_layers_are_exact_on_cortex_m4(flags: tuple[str, ...]) -> None:
    check_on_core(rare_layers(), "cortex-m4", flags)


def test_the_drawn_layers_reach_every_variant() -> None:
    drawn = [layer for _, layers in family("DSP convolution 1/2 bits").batches() for layer in layers]
    used = {_call(layer.graph()).function for layer in (*drawn, *rare_layers())}
    variants = {
        f"dq_conv2d_{width}a8_pairs_{way}{chunks}{stage}"
        for width in ("w1s2", "w2s1", "w2s2")
        for way in ("pixel", "rows", "ring", "general")
        for chunks in ("", "_chunks")
        for stage in ("", "_shifted", "_sums")
        if (way, chunks) != ("rows", "_chunks")
    }
    assert {name for name in used if "_pairs_" in name} == variants


def _call(graph: Graph) -> KernelCall:
    steps = build_schedule(graph, DSP.features, "nhwc").steps
    return next(step.call for step in steps if "conv2d" in step.call.function)


def _layer(
    channels: int, size: tuple[int, int], kernel: int, out: int, letters: str = "midrise-2", stride: int = 1
) -> FieldsLayer:
    pad = kernel // 2
    window = Window((kernel, kernel), (stride, stride), (pad, pad, pad, pad))
    return FieldsLayer(
        channels, size, window, 1, out, letters=letters, zero_point=-128, enclosed=True, seed=1
    )


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (_layer(64, (5, 5), 1, 8), "dq_conv2d_w2s2a8_pairs_pixel_chunks"),
        (_layer(8, (5, 5), 1, 8), "dq_conv2d_w2s2a8_pairs_pixel"),
        (_layer(16, (5, 5), 3, 4, "ternary"), "dq_conv2d_w2s1a8_pairs_ring_chunks"),
        (_layer(4, (5, 5), 3, 4, "binary"), "dq_conv2d_w1s2a8_pairs_ring"),
        (_layer(3, (5, 5), 3, 4), "dq_conv2d_w2s2a8_pairs_rows"),
        (_layer(33, (5, 5), 3, 4), "dq_conv2d_w2s2a8_pairs_general_chunks"),
        (replace(_layer(6, (5, 5), 3, 4), groups=2), "dq_conv2d_w2s2a8_pairs_general"),
        (replace(_layer(8, (5, 5), 1, 8), bounds=3), "dq_conv2d_w2s2a8_pairs_pixel_sums"),
    ],
)
def test_windows_are_gathered_in_the_best_way(layer: FieldsLayer, function: str) -> None:
    assert _call(layer.graph()).function == function


def test_rows_too_long_for_the_second_field_are_left_to_other_kernels() -> None:
    layer = replace(_layer(2048, (1, 1), 1, 4, "ternary"), extreme="high", enclosed=False)
    assert "pairs" not in _call(layer.graph()).function
    assert "pairs" in _call(replace(layer, channels=1020).graph()).function


@pytest.mark.parametrize(
    ("layer", "lead"),
    [
        (_layer(8, (6, 6), 1, 8), 0),
        (_layer(8, (6, 6), 1, 4), -8),
        (_layer(4, (6, 6), 1, 8), 34 * 4),
        (_layer(8, (6, 6), 1, 8, stride=2), -16),
        (_layer(8, (6, 6), 3, 8), -48),
        (_layer(8, (6, 6), 3, 16), 4 * 96 - 5 * 48),
    ],
)
def test_the_output_may_overwrite_what_is_read_already(layer: FieldsLayer, lead: int) -> None:
    assert _call(layer.graph()).lead == lead


def test_a_convolution_takes_the_place_of_its_input() -> None:
    schedule = build_schedule(_layer(16, (12, 12), 3, 16).graph(), DSP.features, "nhwc")
    step = next(step for step in schedule.steps if "conv2d" in step.call.function)
    arena = plan_arena(schedule, 8)
    assert arena.bytes < 2 * 16 * 12 * 12 + step.call.scratch_bytes


def _code(letters: str) -> PairCode:
    code = pair_code(alphabet(letters))
    assert code is not None
    return code


def test_only_one_and_two_bits_come_in_pairs() -> None:
    assert [pair_code(alphabet(name)) for name in ("midtread-3", "midrise-4", "symmetric-8")] == [None] * 3


def _signs(negative: int, taps: int) -> Int64Array:
    levels = np.ones((1, taps), np.int64)
    levels[0, :negative] = -1
    return levels


@pytest.mark.parametrize(
    ("letters", "levels", "length"),
    [
        ("ternary", _signs(62, 64), 64),
        ("ternary", _signs(63, 64), 64),
        ("ternary", _signs(64, 64), 32),
        ("binary", _signs(127, 128), 128),
        ("binary", _signs(128, 128), 64),
        ("midtread-2", np.where(np.arange(32) < 31, -2, 1)[np.newaxis], 32),
        ("midtread-2", np.full((1, 32), -2), 16),
        ("midrise-2", 3 * _signs(41, 42), 42),
        ("midrise-2", 3 * _signs(21, 44), 22),
    ],
)
def test_chunks_are_as_long_as_can_be_proven(letters: str, levels: Int64Array, length: int) -> None:
    divisors = [n for n in range(1, levels.shape[1] + 1) if levels.shape[1] % n == 0]
    assert _code(letters).longest_chunk(levels, divisors) == length


@pytest.mark.parametrize(
    ("letters", "level", "taps"), [("ternary", -1, 1023), ("binary", -1, 1023), ("midrise-2", 3, 682)]
)
def test_the_second_field_takes_so_many_taps_and_no_more(letters: str, level: int, taps: int) -> None:
    assert _code(letters).second_fits(np.full((1, taps - 1), level))
    assert _code(letters).second_fits(np.full((1, taps), level))
    assert not _code(letters).second_fits(np.full((1, taps + 1), level))


def _with_levels(graph: Graph, levels: Int64Array) -> Graph:
    """The same one convolution with other levels."""
    node = graph.nodes[0]
    assert isinstance(node.op, IntegerConv2d)
    accumulation = node.op.accumulation
    weights = replace(accumulation.weights, levels=levels.astype(np.int16))
    op = replace(node.op, accumulation=replace(accumulation, weights=weights))
    return graph.with_nodes((replace(node, op=op),), output=graph.output)


def _extreme_network(letters: str, taps: int, count: int, target: str) -> Network:
    """Four channels of the lowest level but for the last `count` taps; inputs drive sums furthest."""
    layer = replace(_layer(taps, (1, 5), 1, 4, letters), zero_point=0, enclosed=False)
    lowest, highest = alphabet(letters).values[[0, -1]]
    levels = np.full((4, taps), lowest)
    levels[:, taps - count :] = highest
    graph = _with_levels(layer.graph(), levels)
    batch = samples(graph, 3, np.random.default_rng(5))
    batch[2] = np.where(levels[0] < 0, -128, 127)[:, np.newaxis, np.newaxis]
    return Network(graph, batch, load_target(target) if target else DSP)


#: alphabet, taps of which all but one of the lowest level are proven in one chunk
_LIMITS = (("ternary", 64), ("binary", 128), ("midtread-2", 32))


@pytest.mark.qemu
@pytest.mark.parametrize("flags", [("-O2",), ("-O2", "-DDQ_NO_ASM")])
def test_sums_at_the_bound_are_exact(flags: tuple[str, ...], tmp_path: Path) -> None:
    require_emulator()
    networks = [
        _extreme_network(letters, taps, count, "cortex-m4")
        for letters, taps in _LIMITS
        for count in (0, 1, 2)
    ]
    results = run_emulated(networks, load_target("cortex-m4"), tmp_path, flags)
    for network, result in zip(networks, results, strict=True):
        assert np.array_equal(network.expected(), result.outputs)


@pytest.mark.parametrize(("letters", "taps"), _LIMITS)
def test_one_past_the_bound_is_wrong(
    letters: str, taps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof is tight: where it is left out, the kernel gives wrong results."""
    monkeypatch.setattr(PairCode, "longest_chunk", lambda code, levels, lengths: max(lengths))
    proven, unproven = (_extreme_network(letters, taps, count, "") for count in (1, 0))
    write_program([proven, unproven], tmp_path)
    outputs = run_program([proven, unproven], tmp_path, "gcc", SANITIZE)
    assert np.array_equal(proven.expected(), outputs[0])
    assert not np.array_equal(unproven.expected(), outputs[1])


@pytest.mark.parametrize("letters", PAIR_ALPHABETS)
def test_the_extremes_of_the_first_field_are_reached(letters: str) -> None:
    rng = np.random.default_rng(2)
    values = alphabet(letters).values.astype(np.int64)
    levels = rng.choice(values, (20, 9))
    lowest, highest = _code(letters).first_extremes(levels)
    worst = np.where(levels > 0, -128, 127), np.where(levels > 0, 127, -128)
    step = _code(letters).first_step
    reached = [(levels * x).sum(axis=1) for x in worst]
    assert np.array_equal(lowest, reached[0] // step)
    assert np.array_equal(highest, -(-reached[1] // step))


def test_a_bias_without_room_for_its_correction_is_refused() -> None:
    op = replace(_layer(4, (2, 2), 1, 4), zero_point=0, enclosed=False).graph().nodes[0].op
    assert isinstance(op, IntegerConv2d)
    correction = np.array([-8192, 0, -8192, 0])
    for largest, fits in ((2**31 - 1 - 8192, True), (2**31 - 8192, False)):
        accumulation = replace(op.accumulation, bias=np.full(4, largest))
        if fits:
            assert channel_table(accumulation, 1, correction)[0] == largest - 8192
        else:
            with pytest.raises(ValueError, match="leaves int32"):
                channel_table(accumulation, 1, correction)

"""Convolutions of three bits and more on cores with SMLAD against the operator: on the host, and in QEMU."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.arithmetic import Int64Array
from deployq.codegen.kernels import masked_conv2d
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.masked_layer import masked_base, masked_format, sums_fit
from deployq.codegen.optimize import build_schedule
from deployq.codegen.packing.fields import byte_pairs, linked
from deployq.codegen.packing.woven import WovenFormat
from deployq.ops import IntegerOperator
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.window import Window
from deployq.targets import Target, load_target
from tests.codegen.batches import Layer, check_on_core, check_on_host, drawn, networks
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.fields_conv2d_layers import FieldsLayer, fields_layers, rare_layers
from tests.codegen.harness import DSP, SANITIZE, Network, run_program, write_program
from tests.codegen.linear_layers import LinearLayer
from tests.codegen.test_naked import longest_string
from tests.integer_networks import samples

_BALANCED = Core(DSP.features)
_FIELDS = ("midrise-4", "midtread-4", "symmetric-8", "midtread-8", "midrise-8", "midtread-7")
_WOVEN = ("midrise-3", "midtread-3", "midrise-5", "midtread-5", "midrise-6", "midtread-6")
_RARE = {"fields": ("midrise-4", "midtread-4", "midrise-8", "midtread-8"), "woven": _WOVEN}


@pytest.mark.slow
@pytest.mark.parametrize("letters", [_FIELDS, _WOVEN], ids=_RARE)
@pytest.mark.parametrize(("batch", "compiler"), [(0, "gcc"), (1, "gcc"), (2, "clang")])
def test_layers_are_exact_on_the_host(letters: tuple[str, ...], batch: int, compiler: str) -> None:
    check_on_host(drawn(fields_layers(letters), batch), DSP, compiler)


@pytest.mark.slow
@pytest.mark.parametrize("names", _RARE)
def test_rare_layers_are_exact_on_the_host(names: str) -> None:
    check_on_host(rare_layers(_RARE[names]), DSP, "gcc")


@pytest.mark.qemu
@pytest.mark.parametrize("names", _RARE)
@pytest.mark.parametrize("flags", [("-O2",), ("-O2", "-DDQ_NO_ASM")])
def test_rare_layers_are_exact_on_cortex_m4(flags: tuple[str, ...], names: str) -> None:
    check_on_core(rare_layers(_RARE[names]), "cortex-m4", flags)


def test_the_rare_layers_reach_every_variant() -> None:
    variants = {
        f"dq_conv2d_w{bits}s{step}a8_{'linked' if bits < 5 else 'masked'}_{way}{stage}"
        for bits in (3, 4, 5, 6, 8)
        for step in (1, 2)
        for way in ("pixel", "rows", "ring", "general")
        for stage in ("", "_shifted", "_sums")
    }
    assert {
        step.call.function
        for names in _RARE.values()
        for layer in rare_layers(names)
        for step in build_schedule(layer.graph(), DSP.features, "nhwc").steps
        if "conv2d" in step.call.function
    } == variants


@pytest.mark.parametrize(
    ("bits", "name"),
    [
        *[(1, ""), (2, ""), (3, "woven linked"), (4, "linked")],
        *[(5, "woven bytes"), (6, "woven bytes"), (7, "bytes"), (8, "bytes")],
    ],
)
def test_a_format_costs_little_more_flash_than_the_codes(bits: int, name: str) -> None:
    layout = masked_format(bits, _BALANCED)
    assert (layout.name if layout else "") == name


@pytest.mark.parametrize("letters", _WOVEN)
def test_woven_weights_take_the_flash_of_their_codes(letters: str) -> None:
    layer = FieldsLayer(16, (4, 4), Window((3, 3)), 1, 8, letters=letters, zero_point=0, seed=1)
    call = build_schedule(layer.graph(), DSP.features, "nhwc").steps[-1].call
    assert call.tables["weights"].nbytes == 16 * 9 * 8 * alphabet(letters).bits // 8


def test_more_flash_is_allowed_for_speed() -> None:
    fastest = Core(DSP.features, "speed")
    wide = {bits: masked_format(bits, fastest) for bits in range(1, 9)}
    assert wide == {1: None, 2: None, 3: linked(), 4: linked(), **dict.fromkeys((5, 6, 7, 8), byte_pairs())}


def test_cores_with_helium_weave_five_bits_alone() -> None:
    helium = Core(DSP.features | {"mve"})
    woven_bits = [bits for bits in range(1, 9) if isinstance(masked_format(bits, helium), WovenFormat)]
    assert woven_bits == [5]


@pytest.mark.parametrize("name", [*_FIELDS, *_WOVEN, "symmetric-7", "symmetric-4", "symmetric-3"])
def test_the_base_makes_codes_of_all_levels(name: str) -> None:
    letters = alphabet(name)
    layout = masked_format(letters.bits, _BALANCED)
    assert layout is not None
    codes, remainder = np.divmod(letters.values - masked_base(letters, layout), letters.step)
    assert not remainder.any()
    assert codes.min() >= 0
    assert codes.max() < 1 << layout.bits


def _levels(channel: int, level: int, taps: int) -> Int64Array:
    levels = np.zeros((8, taps), dtype=np.int64)
    levels[4 + channel] = level
    return levels


@pytest.mark.parametrize(
    ("bits", "channel", "level", "step", "taps"),
    [
        (3, 0, -4, 1, 16383),
        (3, 1, -4, 1, 262143),
        (3, 2, -4, 1, 1023),  # 4 * 128 * 1024 is one more than 20 bits hold
        (3, 3, -7, 2, 1170),
        (4, 0, -8, 1, 8191),
        (4, 1, -8, 1, 131071),
        (4, 2, -8, 1, 511),
        (4, 3, 7, 1, 585),
        (4, 3, -15, 2, 546),
        (5, 1, -16, 1, 4095),  # 16 * 128 * 4096 is one more than 24 bits hold
        (6, 3, -32, 1, 2047),
        (6, 1, -63, 2, 2080),
        (8, 1, -128, 1, 511),
        (8, 3, 127, 1, 516),
        (8, 0, -128, 1, 131071),
    ],
)
def test_inner_products_are_proven_at_the_place_of_their_field(
    bits: int, channel: int, level: int, step: int, taps: int
) -> None:
    layout = masked_format(bits, _BALANCED)
    assert layout is not None
    assert sums_fit(_levels(channel, level, taps - 1), step, layout)
    assert sums_fit(_levels(channel, level, taps), step, layout)
    assert not sums_fit(_levels(channel, level, taps + 1), step, layout)


def _pointwise(taps: int, out: int, letters: str, extreme: str) -> FieldsLayer:
    return FieldsLayer(
        taps, (1, 2), Window((1, 1)), 1, out, letters=letters, zero_point=0, extreme=extreme, seed=1
    )


#: Alphabet, taps of the lowest level that are proven.
_LIMITS = (
    ("midtread-3", 1023),
    ("midtread-4", 511),
    ("midtread-5", 4095),
    ("midtread-6", 2047),
    ("midtread-8", 511),
)


def test_one_tap_more_than_proven_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights are the lowest; one of the samples is -128 everywhere."""
    layers = [_pointwise(taps + more, 4, letters, "low") for letters, taps in _LIMITS for more in (0, 1)]
    plain = [_function(network) for network in networks(layers, DSP)]
    expected = [True, False] * len(_LIMITS)
    assert [bool(re.search("linked|masked", function)) for function in plain] == expected
    monkeypatch.setattr(masked_conv2d, "sums_fit", lambda levels, step, layout: True)
    batch = networks(layers, DSP)
    with tempfile.TemporaryDirectory() as directory:
        write_program(batch, Path(directory))
        outputs = run_program(batch, Path(directory), "gcc", SANITIZE)
    exact = [np.array_equal(found, network.expected()) for found, network in zip(outputs, batch, strict=True)]
    assert exact == expected


def _all_extremes(letters: str, taps: int, target: Target) -> Network:
    """Every four channels are all lowest or all highest levels in another combination, and so are samples.

    Ratios keep the outputs of the largest sums apart from those of wrong ones.
    """
    graph = _pointwise(taps, 64, letters, "").graph()
    node = graph.nodes[0]
    assert isinstance(node.op, IntegerConv2d)
    accumulation, values = node.op.accumulation, alphabet(letters).values
    combination = [group >> channel & 1 for group in range(16) for channel in range(4)]
    levels = np.repeat(values[[0, -1]][combination][:, np.newaxis], taps, axis=1)
    ratio = 2**32 * 100 // (int(np.abs(values).max()) * 128 * taps)
    stage = replace(accumulation.stage, shift=0, multiplier=np.full(64, ratio, dtype=np.int64))
    weights = replace(accumulation.weights, levels=levels)
    op = replace(node.op, accumulation=replace(accumulation, weights=weights, stage=stage))
    extreme = graph.with_nodes((replace(node, op=op),), output=graph.output)
    batch = samples(extreme, 6, np.random.default_rng(taps))
    return Network(extreme, np.where(batch < 0, -128, 127).astype(np.int8), target)


@pytest.mark.qemu
def test_sums_at_their_extremes(tmp_path: Path) -> None:
    """As many taps as are proven, of either distance of levels."""
    require_emulator()
    limits = (*_LIMITS, ("midrise-3", 1170), ("midrise-4", 546), ("midrise-6", 2080))
    for target, flags in ((DSP, ()), (load_target("cortex-m4"), ("-O2",))):
        batch = [_all_extremes(letters, taps, target) for letters, taps in limits]
        assert all(re.search("linked|masked", _function(network)) for network in batch)
        if flags:
            results = run_emulated(batch, target, tmp_path / "core", flags)
            found = [result.outputs for result in results]
        else:
            write_program(batch, tmp_path / "host")
            found = run_program(batch, tmp_path / "host", "gcc", SANITIZE)
        for network, outputs in zip(batch, found, strict=True):
            assert np.array_equal(network.expected(), outputs)


@pytest.mark.parametrize("out", [1, 2, 3])
def test_channels_that_fill_up_the_last_four_do_not_disturb_others(out: int) -> None:
    """If they had the lowest codes, their sums would not fit 20 bits."""
    layers = [_pointwise(600, out, "midtread-4", ""), _pointwise(1200, out, "midtread-3", "")]
    assert all("linked" in _function(network) for network in networks(layers, DSP))
    check_on_host(layers, DSP, "gcc")


def _function(network: Network) -> str:
    return build_schedule(network.graph, network.target.features, "nhwc").steps[-1].call.function


@pytest.mark.qemu
@pytest.mark.parametrize("flag", ["-Os", "-O3"])
def test_clang_assembles_woven_words_to_the_same(flag: str, tmp_path: Path) -> None:
    require_emulator()
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    layers: list[Layer] = [LinearLayer(37, 7, letters=letters) for letters in _WOVEN]
    layers += [layer for layer in rare_layers(_WOVEN) if layer.channels < 256]
    core = load_target("cortex-m4")
    batch = networks(layers, core)
    results = run_emulated(batch, core, tmp_path, (flag,), compiler="clang")
    for layer, network, result in zip(layers, batch, results, strict=True):
        assert np.array_equal(network.expected(), result.outputs), layer
    assert longest_string((tmp_path / "dq_kernels.c").read_text()) <= 4095


#: Channels, sizes and kernels of layers, and instructions per MAC at most.
_SHAPES = ((64, (25, 5), 1), (16, (32, 32), 3), (64, (8, 8), 3))
_PER_MAC = {
    "midrise-3": (0.94, 0.93, 0.79),
    "midrise-4": (0.88, 0.87, 0.73),
    "midtread-5": (1.22, 1.23, 1.11),
    "midtread-6": (1.19, 1.2, 1.07),
    "symmetric-8": (0.93, 0.95, 0.83),
}


@pytest.mark.qemu
def test_instructions_per_mac_on_cortex_m4(tmp_path: Path) -> None:
    """Whole layers; limits a few percent above what was measured with gcc 12."""
    require_emulator()
    limits = {
        (letters, *shape): limit
        for letters, per_shape in _PER_MAC.items()
        for shape, limit in zip(_SHAPES, per_shape, strict=True)
    }
    layers = [
        FieldsLayer(c, size, Window((k, k), (1, 1), (k // 2,) * 4), 1, c, letters=name, seed=1)
        for name, c, size, k in limits
    ]
    batch = networks(layers, load_target("cortex-m4"))
    results = run_emulated(batch, load_target("cortex-m4"), tmp_path)
    for (layer, limit), network, result in zip(limits.items(), batch, results, strict=True):
        shape, node = network.graph.tensors[network.graph.input].shape, network.graph.nodes[0]
        assert isinstance(node.op, IntegerOperator)
        assert result.instructions <= limit * node.op.macs([shape]), (layer, result.instructions)

"""Convolutions of four and eight bits against the operator: on the host, and in QEMU."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.arithmetic import Int64Array
from deployq.codegen.kernels import masked_conv2d
from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.masked_layer import masked_base, masked_format, top_fields_fit
from deployq.codegen.optimize import build_schedule
from deployq.codegen.packing.fields import byte_pairs, nested
from deployq.ops import IntegerOperator
from deployq.ops.window import Window
from deployq.targets import load_target
from tests.codegen.batches import check_on_core, check_on_host, drawn, networks
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.fields_conv2d_layers import FieldsLayer, fields_layers, rare_layers
from tests.codegen.harness import DSP, SANITIZE, Network, run_program, write_program

_BALANCED = Core(DSP.features)
_ALPHABETS = ("midrise-4", "midtread-4", "symmetric-8", "midtread-8", "midrise-8", "midtread-7")
_RARE = ("midrise-4", "midtread-4", "midrise-8", "midtread-8")
_LAYERS = fields_layers(_ALPHABETS)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler"), [(0, "gcc"), (1, "gcc"), (2, "clang")])
def test_layers_are_exact_on_the_host(batch: int, compiler: str) -> None:
    check_on_host(drawn(_LAYERS, batch), DSP, compiler)


@pytest.mark.slow
def test_rare_layers_are_exact_on_the_host() -> None:
    check_on_host(rare_layers(_RARE), DSP, "gcc")


@pytest.mark.qemu
@pytest.mark.parametrize("flags", [("-O2",), ("-O2", "-DDQ_NO_ASM")])
def test_rare_layers_are_exact_on_cortex_m4(flags: tuple[str, ...]) -> None:
    check_on_core(rare_layers(_RARE), "cortex-m4", flags)


def test_the_rare_layers_reach_every_variant() -> None:
    variants = {
        f"dq_conv2d_{width}a8_masked_{way}{stage}"
        for width in ("w4s1", "w4s2", "w8s1", "w8s2")
        for way in ("pixel", "rows", "ring", "general")
        for stage in ("", "_shifted", "_sums")
    }
    assert {
        step.call.function
        for layer in rare_layers(_RARE)
        for step in build_schedule(layer.graph(), DSP.features, "nhwc").steps
        if "conv2d" in step.call.function
    } == variants


@pytest.mark.parametrize(
    ("bits", "name"), [(1, ""), (2, ""), (3, ""), (4, "nested"), (5, ""), (6, ""), (7, "bytes"), (8, "bytes")]
)
def test_a_format_costs_little_more_flash_than_the_codes(bits: int, name: str) -> None:
    layout = masked_format(bits, _BALANCED)
    assert (layout.name if layout else "") == name


def test_more_flash_is_allowed_for_speed() -> None:
    fastest = Core(DSP.features, "speed")
    wide = {bits: masked_format(bits, fastest) for bits in range(1, 9)}
    assert wide == {1: None, 2: None, 3: nested(), 4: nested(), **dict.fromkeys((5, 6, 7, 8), byte_pairs())}


@pytest.mark.parametrize("name", [*_ALPHABETS, "symmetric-7", "symmetric-4"])
def test_the_base_makes_codes_of_all_levels(name: str) -> None:
    letters = alphabet(name)
    layout = masked_format(letters.bits, _BALANCED)
    assert layout is not None
    codes, remainder = np.divmod(letters.values - masked_base(letters, layout), letters.step)
    assert not remainder.any()
    assert codes.min() >= 0
    assert codes.max() < 1 << layout.bits


def _levels(channel: int, level: int, taps: int) -> Int64Array:
    levels = np.zeros((4, taps), dtype=np.int64)
    levels[channel] = level
    return levels


@pytest.mark.parametrize(
    ("bits", "channel", "level", "step", "taps"),
    [
        (4, 3, -8, 1, 511),  # 8 * 128 * 512 * 4096 = 2^32 / 2
        (4, 3, 7, 1, 585),
        (4, 3, -15, 2, 546),
        (4, 2, -8, 1, 8191),
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
    assert top_fields_fit(_levels(channel, level, taps - 1), step, layout)
    assert top_fields_fit(_levels(channel, level, taps), step, layout)
    assert not top_fields_fit(_levels(channel, level, taps + 1), step, layout)


@pytest.mark.parametrize("letters", ["midtread-4", "midtread-8"])
def test_one_tap_more_than_proven_fails(letters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights are the lowest; one of the samples is -128 everywhere."""
    layers = [
        FieldsLayer(taps, (1, 2), Window((1, 1)), 1, 4, letters, 0, 0, "low", False, 1) for taps in (511, 512)
    ]
    plain = [_function(network) for network in networks(layers, DSP)]
    assert ["masked" in function for function in plain] == [True, False]
    monkeypatch.setattr(masked_conv2d, "top_fields_fit", lambda levels, step, layout: True)
    batch = networks(layers, DSP)
    with tempfile.TemporaryDirectory() as directory:
        write_program(batch, Path(directory))
        found = run_program(batch, Path(directory), "gcc", SANITIZE)
    assert np.array_equal(found[0], batch[0].expected())
    assert not np.array_equal(found[1], batch[1].expected())


def _function(network: Network) -> str:
    return build_schedule(network.graph, network.target.features, "nhwc").steps[-1].call.function


@pytest.mark.qemu
def test_instructions_per_mac_on_cortex_m4(tmp_path: Path) -> None:
    """Whole layers; limits a few percent above what was measured with gcc 12."""
    require_emulator()
    limits = {
        ("symmetric-8", 64, (25, 5), 1): 0.93,
        ("midrise-4", 64, (25, 5), 1): 0.98,
        ("symmetric-8", 16, (32, 32), 3): 0.95,
        ("midrise-4", 16, (32, 32), 3): 0.99,
        ("symmetric-8", 64, (8, 8), 3): 0.83,
        ("midrise-4", 64, (8, 8), 3): 0.86,
    }
    layers = [
        FieldsLayer(c, size, Window((k, k), (1, 1), (k // 2,) * 4), 1, c, name, 0, None, "", False, 1)
        for name, c, size, k in limits
    ]
    batch = networks(layers, load_target("cortex-m4"))
    results = run_emulated(batch, load_target("cortex-m4"), tmp_path)
    for (layer, limit), network, result in zip(limits.items(), batch, results, strict=True):
        shape, node = network.graph.tensors[network.graph.input].shape, network.graph.nodes[0]
        assert isinstance(node.op, IntegerOperator)
        assert result.instructions <= limit * node.op.macs([shape]), (layer, result.instructions)

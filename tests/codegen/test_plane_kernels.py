"""The kernels for cores without DSP against the operators: on the host under sanitizers, and in QEMU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.alphabet import alphabet
from deployq.codegen.kernels import linear_halfwords, tables
from deployq.codegen.kernels.weighted import ConvolutionLayer
from deployq.codegen.optimize import build_schedule
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.window import Window
from deployq.targets import Target, load_target
from tests.codegen.batches import check_on_core, check_on_host, drawn, networks
from tests.codegen.depthwise_layers import DepthwiseLayer, depthwise_layers
from tests.codegen.fields_conv2d_layers import FieldsLayer, fields_layers
from tests.codegen.harness import run_program, write_program
from tests.codegen.linear_layers import LinearLayer, linear_layers
from tests.integer_networks import ALPHABETS

#: The C forms of the kernels for each core, on the host.
V7M = Target("v7m", "", "host", "", (), frozenset({"armv7m"}), 4, ())
V6M = Target("v6m", "", "host", "", (), frozenset({"armv6m"}), 4, ())

_LETTERS = tuple(letters.name for letters in ALPHABETS)


_Layer = FieldsLayer | DepthwiseLayer | LinearLayer


def _drawn(batch: int) -> list[_Layer]:
    """Layers of all three kinds."""
    return [
        *drawn(fields_layers(letters=_LETTERS), batch, 30),
        *drawn(depthwise_layers(), batch, 18),
        *drawn(linear_layers(), batch, 16),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "compiler", "target"), [(0, "gcc", V7M), (1, "gcc", V6M), (2, "clang", V6M)]
)
def test_layers_are_exact_on_the_host(batch: int, compiler: str, target: Target) -> None:
    check_on_host(_drawn(batch), target, compiler)


def _edges() -> list[FieldsLayer]:
    """Blocks of eight windows that begin or end outside the image."""
    shapes = (
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, 3),
        ((3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 1, 3),
        ((3, 3), (1, 1), (1, 1, 1, 1), (2, 1), 1, 33),
        ((5, 5), (1, 2), (3, 4, 3, 4), (1, 1), 1, 2),
        ((1, 7), (1, 3), (0, 6, 2, 6), (1, 1), 1, 5),
        ((2, 2), (2, 1), (1, 1, 0, 0), (1, 1), 1, 70),
        ((1, 1), (1, 1), (1, 2, 1, 2), (1, 1), 2, 6),
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 2, 4),
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 2), 1, 4),
    )
    plain = _pointwise(1, 6, "midrise-2", "")
    layers = []
    for index, (kernel, strides, pads, dilations, groups, channels) in enumerate(shapes):
        window = Window(kernel, strides, pads, dilations)
        for outputs in (8, 16):
            # As wide as gives so many outputs, so that the last window of a line is the last of a block.
            width = (outputs - 1) * strides[1] + window.extent[1] - pads[1] - pads[3]
            size = (4 + index % 3, width)
            layers.append(
                replace(plain, channels=channels, size=size, window=window, groups=groups, zero_point=17)
            )
    return [replace(layer, enclosed=enclosed) for layer in layers for enclosed in (False, True)]


@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
def test_windows_over_the_edges_of_the_image(core: Target) -> None:
    check_on_host(_edges(), core, "gcc")


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m3", "cortex-m0plus"])
def test_windows_over_the_edges_of_the_image_on_the_cores(target: str) -> None:
    check_on_core(_edges(), target)


def _few() -> list[FieldsLayer]:
    """One window or two that are left after all blocks of eight, or are all there are."""
    sizes = ((1, 1), (1, 2), (3, 3), (2, 5))
    kinds = ((128, "midrise-2"), (40, "ternary"), (300, "midrise-2"), (70, "midtread-6"))
    plain = _pointwise(1, 21, "midrise-2", "")
    return [
        replace(plain, channels=channels, letters=letters, size=size, bounds=bounds)
        for channels, letters in kinds
        for size in sizes
        for bounds in (0, 3)
    ]


@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
def test_few_windows(core: Target) -> None:
    check_on_host(_few(), core, "clang")


@pytest.mark.qemu
@pytest.mark.parametrize("flags", [("-O2",), ("-Os", "-DDQ_NO_ASM")])
@pytest.mark.parametrize("target", ["cortex-m3", "cortex-m0plus"])
def test_few_windows_on_the_cores(target: str, flags: tuple[str, ...]) -> None:
    check_on_core(_few(), target, flags)


def _pointwise(channels: int, out: int, letters: str, extreme: str) -> FieldsLayer:
    window = Window((1, 1))
    return FieldsLayer(
        channels, (3, 4), window, 1, out, letters=letters, zero_point=0, extreme=extreme, seed=4
    )


@pytest.mark.parametrize("extreme", ["low", "high"])
def test_a_chunk_beyond_the_proof_overflows_its_lanes(
    extreme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _pointwise(24, 5, "midrise-4", extreme)
    assert _chunk(layer) == 16
    assert _outputs_are_exact(layer, tmp_path / "proven")
    monkeypatch.setattr(tables, "fits_lanes", lambda weights, chunk: True)
    assert _chunk(layer) == 24
    assert not _outputs_are_exact(layer, tmp_path / "beyond")


def test_a_linear_chunk_beyond_the_proof_overflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LinearLayer(160, 6, letters="midrise-2", zero_point=0, extreme="low", seed=1)
    assert _chunk(layer) == 160  # codes 0 around centre 1: 160 * 128 fits
    assert _outputs_are_exact(layer, tmp_path / "proven")
    longer = LinearLayer(272, 6, letters="midrise-2", zero_point=0, extreme="low", seed=1)
    assert _chunk(longer) == 248
    assert _outputs_are_exact(longer, tmp_path / "chunks")
    monkeypatch.setattr(linear_halfwords, "fits_lanes", lambda weights, chunk: True)
    assert _chunk(longer) == 272
    assert not _outputs_are_exact(longer, tmp_path / "beyond")


def _chunk(layer: _Layer) -> int:
    (step,) = build_schedule(layer.graph(), V7M.features, "nhwc").steps
    return step.call.parameters["chunk"]


def _outputs_are_exact(layer: _Layer, directory: Path) -> bool:
    directory.mkdir()
    (network,) = networks([layer], V7M)
    write_program([network], directory)
    (found,) = run_program([network], directory, "gcc", ["-O1"])
    return np.array_equal(network.expected(), found)


def test_the_kernels_are_chosen_where_they_apply() -> None:
    expected = {
        "cortex-m3": ("dq_conv2d_w2a8_planes", "dq_linear_w2a8_halfwords"),
        "cortex-m0plus": ("dq_conv2d_w2a8_planes_whole", "dq_linear_w2a8_halfwords_halves"),
        "host": ("dq_conv2d_w2a8", "dq_linear_w2a8"),
    }
    layers: list[_Layer] = [
        _pointwise(64, 64, "midrise-2", ""),
        LinearLayer(64, 10, letters="midrise-2", bounds=1, zero_point=-128),
    ]
    for target, functions in expected.items():
        features = load_target(target).features
        for layer, function in zip(layers, functions, strict=True):
            (step,) = build_schedule(layer.graph(), features, "nhwc").steps
            assert step.call.function == function


@pytest.mark.parametrize(
    ("features", "function"),
    [("armv7m", "dq_conv2d_w8a8"), ("armv6m", "dq_conv2d_w8a8_planes_halves")],
)
def test_eight_planes_pay_only_without_a_fast_multiplication(features: str, function: str) -> None:
    graph = _pointwise(64, 64, "symmetric-8", "").graph()
    (step,) = build_schedule(graph, frozenset({features}), "nhwc").steps
    assert step.call.function == function


@pytest.mark.parametrize(
    "letters", ["binary", "ternary", "midrise-2", "midtread-4", "symmetric-8", "midrise-8"]
)
def test_the_parts_of_a_code_add_up_to_its_level(letters: str) -> None:
    graph = _pointwise(8, 3, letters, "").graph()
    operator = graph.nodes[-1].op
    assert isinstance(operator, IntegerConv2d)
    layer = ConvolutionLayer(operator, (8, 3, 4))
    codes = np.arange(alphabet(letters).levels)
    parts = tables.code_parts(layer)
    total = sum(part.levels(codes, alphabet(letters).step) << part.low for part in parts)
    assert np.array_equal(total, alphabet(letters).values)


def _wide_pads() -> list[DepthwiseLayer]:
    """Strides that leave fewer columns than the pads."""
    windows = (Window((1, 1), (1, 7), (0, 4, 0, 0)), Window((3, 3), (5, 5), (1, 9, 1, 9)))
    return [
        DepthwiseLayer(8, (2, 2), window, 1, letters="midrise-2", zero_point=-5, seed=1) for window in windows
    ]


@pytest.mark.parametrize("core", [V7M, V6M], ids=["v7m", "v6m"])
def test_pads_wider_than_all_columns_on_the_host(core: Target) -> None:
    check_on_host(_wide_pads(), core, "gcc")


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m3", "cortex-m0plus"])
def test_pads_wider_than_all_columns_on_the_cores(target: str) -> None:
    check_on_core(_wide_pads(), target)

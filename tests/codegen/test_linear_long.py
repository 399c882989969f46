"""Fully connected layers by long multiplications: packing, proofs, choice, and exactness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.codegen.kernels import linear_long, linear_tables
from deployq.codegen.optimize import build_schedule
from deployq.codegen.packing.channel_quads import ChannelQuadFormat
from deployq.targets import Target
from tests.codegen.batches import check_on_host, drawn, networks
from tests.codegen.families import family
from tests.codegen.harness import run_program, write_program
from tests.codegen.linear_layers import LinearLayer
from tests.codegen.test_plane_kernels import V6M, V7M

_LAYERS = family("long linear").layers


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is taken for every layer, whatever flash it takes, also where tables are faster."""
    monkeypatch.setattr(linear_tables, "pays", lambda *given: False)
    monkeypatch.setattr(linear_long, "takes_too_much_flash", lambda *given: False)


@given(
    centre=st.sampled_from((32, 127, 128)),
    channels=st.integers(1, 9),
    taps=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_channel_quads_round_trip(centre: int, channels: int, taps: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, centre + 128, (channels, taps)).astype(np.uint8)
    layout = ChannelQuadFormat(centre)
    assert np.array_equal(layout.unpack(layout.pack(codes), channels, taps), codes)


def test_places_of_codes_are_as_described() -> None:
    codes = np.array([[1], [127], [3], [128]], np.uint8)
    assert ChannelQuadFormat(128).pack(codes).tolist() == [1 | 0 << 8 | 3 << 16 | 0xFF << 24]
    with pytest.raises(ValueError, match="more than 127 above"):
        ChannelQuadFormat(127).pack(np.full((1, 1), 255, np.uint8))


@pytest.mark.slow
@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(("batch", "compiler"), [(0, "gcc"), (1, "clang")])
def test_layers_are_exact_on_the_host(batch: int, compiler: str) -> None:
    check_on_host(drawn(_LAYERS, batch, 80), V7M, compiler)


def _function(case: LinearLayer, target: Target) -> str:
    (step,) = build_schedule(case.graph(), target.features, "nhwc").steps
    return step.call.function


@pytest.mark.parametrize(
    ("letters", "outputs", "chosen"),
    [
        ("symmetric-8", 128, True),
        ("midtread-7", 12, True),
        ("symmetric-8", 2, False),  # four channels would be stored
        ("midtread-6", 6, False),  # eight channels, and two bits more of each code
    ],
)
def test_where_it_is_chosen(letters: str, outputs: int, chosen: bool) -> None:
    case = LinearLayer(64, outputs, letters=letters, zero_point=-128)
    assert _function(case, V7M).endswith("_long") is chosen
    assert not _function(case, V6M).endswith("_long")


def test_the_longest_chunk_is_proven() -> None:
    """127 * 128 * 516 fits 24 bits, and one input more does not; odd channels have bits enough."""
    rows = np.full((2, 517), -127)
    assert linear_long.longest_chunk(rows[:, :516]) == 516
    assert linear_long.longest_chunk(rows) == 256
    rows[0] = 1
    assert linear_long.longest_chunk(rows) == 517


def test_a_chunk_beyond_the_proof_overflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LinearLayer(640, 8, letters="symmetric-8", zero_point=0, extreme="high", seed=1)
    assert _exact(layer, tmp_path / "proven")
    monkeypatch.setattr(linear_long, "_fits", lambda distances, chunk: True)
    assert not _exact(layer, tmp_path / "beyond")


def _exact(layer: LinearLayer, directory: Path) -> bool:
    directory.mkdir()
    inputs = np.full((1, layer.inputs), -128, np.int8)
    (network,) = networks([layer], V7M)
    network.samples[:1] = inputs
    write_program([network], directory)
    (found,) = run_program([network], directory, "gcc", ["-O1"])
    return np.array_equal(network.expected(), found)

"""Bits per layer through the command line, on the digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployq import cli
from deployq.errors import ExitCode

SMALL = ("--calibration-limit", "300", "--verify-samples", "2", "--host-samples", "20", "--method", "gpfq")


def build(*options: str, output: Path) -> int:
    return cli.main(["build", *SMALL, *options, "-o", str(output), "--quiet"])


def report(output: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((output / "report.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def alphabets(output: Path) -> dict[str, str]:
    return {layer["name"]: layer["alphabet"] for layer in report(output)["layers"] if layer["alphabet"]}


@pytest.mark.slow
def test_widths_by_hand(tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = ("--bits", "2", "--first", "8", "--last", "ternary", "--layer-bits", "node_conv2d_1=midtread-3")
    assert build(*options, "--target", "host", output=output) == 0
    wanted = {"node_conv2d": "symmetric-8", "node_conv2d_1": "midtread-3", "node_linear": "ternary"}
    assert alphabets(output) == wanted


@pytest.mark.qemu
def test_a_flash_budget_is_kept_and_used(tmp_path: Path) -> None:
    output, budget = tmp_path / "out", 6000
    options = ("--bits", "auto", "--flash", str(budget), "--optimize", "flash")
    assert build(*options, output=output) == 0
    document = report(output)
    flash = document["memory"]["weights_bytes"] + document["memory"]["code_bytes"]
    assert 0.85 * budget < flash <= budget
    assert document["verification"]["qemu"]["mismatches"] == 0
    rows = document["pareto"]["rows"]
    assert [row["chosen"] for row in rows].count(True) == 1
    chosen = next(row for row in rows if row["chosen"])
    assert {layer["layer"]: layer["alphabet"] for layer in chosen["layers"]} == alphabets(output)
    assert flash <= chosen["flash_bytes"] <= budget
    assert "flash against accuracy" in (output / "report.html").read_text(encoding="utf-8").lower()
    assert any("widths chosen" in note for note in document["notes"])


@pytest.mark.slow
def test_a_budget_in_bits_and_a_layer_by_hand(tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = ("--bits", "auto", "--average-bits", "3.5", "--last", "8", "--target", "host")
    assert build(*options, output=output) == 0
    assert alphabets(output)["node_linear"] == "symmetric-8"
    row = next(row for row in report(output)["pareto"]["rows"] if row["chosen"])
    assert row["packed_bits"] <= 3.5


@pytest.mark.slow
def test_the_smallest_network_of_a_drop(tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert build("--bits", "auto", "--max-drop", "1", "--target", "host", output=output) == 0
    document = report(output)
    assert document["accuracy"]["quantized"] >= document["accuracy"]["float"] - 1
    row = next(row for row in document["pareto"]["rows"] if row["chosen"])
    assert {layer["layer"]: layer["alphabet"] for layer in row["layers"]} == alphabets(output)
    assert row["packed_bits"] < 5, "something narrow was found"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--bits", "auto"), ExitCode.USAGE, "no budget"),
        (("--bits", "auto", "--average-bits", "1", "--first", "8"), ExitCode.BUDGET, "fewest bits"),
        (("--bits", "2", "--max-drop", "1"), ExitCode.USAGE, "--bits auto"),
        (("--bits", "auto", "--alphabet", "ternary", "--average-bits", "2"), ExitCode.USAGE, "alphabet"),
        (("--bits", "2", "--layer-bits", "nothing=4"), ExitCode.USAGE, "node_linear"),
        (("--bits", "2", "--layer-bits", "node_linear"), ExitCode.USAGE, "--layer-bits"),
        (("--bits", "2", "--first", "9"), ExitCode.USAGE, "--first"),
    ],
)
def test_what_cannot_be_is_refused(
    options: tuple[str, ...], code: ExitCode, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert build(*options, "--target", "host", output=output) == code
    assert message in capsys.readouterr().err
    assert not output.exists()

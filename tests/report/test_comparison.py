"""The comparison's data model: text, JSON, picture."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployq.report.comparison import Cell, Comparison, FailedCell, Trial, render_comparison
from deployq.report.json import dump_json, to_document
from deployq.report.plot import save_plot
from deployq.report.quantization import (
    ACCURACY,
    AGREEMENT,
    EXPLAINED,
    Measure,
    QuantizationReport,
    QuantizedLayer,
    render_quantization,
)

HOSTILE = "\x1b[31m[red]$\\frac$\n"
LAYER = QuantizedLayer("conv", "conv2d", "ternary", 1000, 250, 0.25, 0.5)
COLOURS = {"gpfq": (0x00, 0x72, 0xB2), "spfq": (0xD5, 0x5E, 0x00)}


def cell(method: str, bits: str, scores: tuple[float, ...], bits_per_weight: float) -> Cell:
    trials = tuple(Trial(seed, score, 0.1 + seed / 100, 0.5, 1.5, 4.0) for seed, score in enumerate(scores))
    return Cell(
        method=method,
        bits=bits,
        bits_per_weight=bits_per_weight,
        score=float(np.mean(scores)),
        score_spread=max(scores) - min(scores),
        relative_error=0.11,
        relative_error_spread=0.02,
        sparsity=0.5,
        solver_seconds=0.5,
        quantize_seconds=1.5,
        seconds=4.0,
        trials=trials,
        layers=(LAYER,),
    )


COMPARISON = Comparison(
    tool_version="0.1.0",
    model="net",
    model_sha256="ab" * 32,
    measure=Measure(ACCURACY, 3000, 81.97),
    calibration_samples=1024,
    seeds=(0, 1, 2),
    methods=("gpfq", "spfq"),
    widths=("1", "ternary", "2"),
    configuration={"scale": 1.0},
    cells=(
        cell("gpfq", "1", (30.0, 31.0, 35.0), 1.0),
        cell("gpfq", "ternary", (64.0, 65.0, 66.0), 1.585),
        cell("gpfq", "2", (73.0, 73.0, 73.0), 2.0),
        FailedCell("spfq", "1", f"no zero among the levels {HOSTILE}"),
        cell("spfq", "ternary", (60.0, 62.0, 64.0), 1.585),
        cell("spfq", "2", (70.0, 71.0, 72.0), 2.0),
    ),
)
ONE_SEED = replace(
    COMPARISON,
    measure=Measure(AGREEMENT, 200, None),
    seeds=(7,),
    cells=tuple(
        replace(item, trials=item.trials[:1], score_spread=0.0) if isinstance(item, Cell) else item
        for item in COMPARISON.cells
    ),
)


def test_the_table() -> None:
    lines = render_comparison(COMPARISON).splitlines()
    assert lines[0] == "net: 2 methods at 3 widths, float 81.97 %"
    assert "accuracy in percent on 3,000 labelled samples, int8 activations" in lines
    assert "1,024 calibration samples, means over 3 draws of them" in lines
    rows = {line.split()[0]: line for line in lines if line.startswith(("method", "gpfq", "spfq"))}
    assert rows["method"].split() == ["method", "1", "bit", "ternary", "2", "bits"]
    assert rows["gpfq"].split() == ["gpfq", "32.00", "(0.110)", "65.00", "(0.110)", "73.00", "(0.110)"]
    assert rows["spfq"].split() == ["spfq", "failed", "62.00", "(0.110)", "71.00", "(0.110)"]
    below = lines[lines.index(rows["gpfq"]) + 1]
    assert below.split() == [
        word for spread in ("5.00,", "2.00,", "0.00,") for word in (spread, "0.5", "of", "1.5", "s")
    ]
    assert "failed: spfq at 1: no zero among the levels <001B>[31m[red]$\\frac$<000A>" in lines


def test_the_table_of_one_seed_without_labels() -> None:
    text = render_comparison(ONE_SEED)
    assert text.startswith("net: 2 methods at 3 widths\n")
    assert "agreement with the float network in percent on 200 samples" in text
    assert "1,024 calibration samples, seed 7" in text
    assert "spread" not in text and "float 8" not in text


def test_the_table_of_a_regression() -> None:
    text = render_comparison(replace(ONE_SEED, measure=Measure(EXPLAINED, 200, None)))
    assert "explained variance of the float outputs in percent on 200 samples" in text
    assert "cells: explained variance (relative error of the layers)" in text
    assert "agreement" not in text and "accuracy" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_many_widths_are_several_tables() -> None:
    widths = ("1", "ternary", *map(str, range(2, 9)))
    cells = tuple(cell("sparse-gpfq", width, (99.0, 100.0), 1.0) for width in widths)
    wide = replace(COMPARISON, methods=("sparse-gpfq",), widths=widths, cells=cells)
    text = render_comparison(wide)
    assert max(map(len, text.splitlines())) <= 100
    headings = [line for line in text.splitlines() if line.startswith("method")]
    assert len(headings) > 1
    names = [name.strip() for name in "  ".join(headings).split("  ") if name.strip() not in ("", "method")]
    assert names == ["1 bit", "ternary", *(f"{bits} bits" for bits in range(2, 9))]
    assert text.count("99.50 (0.110)") == len(widths), "no cell is folded"


def test_notes_are_pointed_out() -> None:
    first = COMPARISON.cells[0]
    assert isinstance(first, Cell)
    with_note = replace(COMPARISON, cells=(replace(first, notes=("damped",)), *COMPARISON.cells[1:]))
    assert "notes in the JSON document: gpfq at 1\n" in render_comparison(with_note)
    assert "notes" not in render_comparison(COMPARISON)


def test_the_document() -> None:
    document = json.loads(dump_json(to_document(COMPARISON)))
    assert document["schema_version"] == 1
    assert document["measure"] == {"kind": "accuracy", "samples": 3000, "float_accuracy": 81.97}
    places = [(cell["method"], cell["bits"]) for cell in document["cells"]]
    assert places[:4] == [("gpfq", "1"), ("gpfq", "ternary"), ("gpfq", "2"), ("spfq", "1")]
    assert set(document["cells"][3]) == {"method", "bits", "failure"}
    measured = document["cells"][0]
    assert measured["score_spread"] == 5.0 and len(measured["trials"]) == 3
    assert measured["layers"] == [
        {
            "name": "conv",
            "op": "conv2d",
            "alphabet": "ternary",
            "weights": 1000,
            "weights_bytes": 250,
            "relative_error": 0.25,
            "sparsity": 0.5,
        }
    ]


def test_the_report_of_one_quantization() -> None:
    report = QuantizationReport(
        tool_version="0.1.0",
        model=HOSTILE,
        model_sha256="ab" * 32,
        method="gpfq",
        bits="1",
        bits_per_weight=1.0,
        measure=COMPARISON.measure,
        score=60.0,
        relative_error=0.25,
        quantize_seconds=1.5,
        seconds=2.5,
        calibration_samples=1024,
        configuration={},
        layers=(LAYER, replace(LAYER, name="fc", weights_bytes=750)),
        notes=("damped",),
        warnings=("few samples",),
    )
    lines = render_quantization(report).splitlines()
    assert lines[0] == "<001B>[31m[red]$\\frac$<000A>, gpfq, 1 bit: accuracy 60.00 %, float 81.97 %"
    assert "1.00 bits per weight, 1,000 bytes of packed weights" in lines
    assert "note: damped" in lines and "WARNING: few samples" in lines
    row = next(line for line in lines if line.startswith("conv"))
    assert row.split() == ["conv", "conv2d", "ternary", "1,000", "250", "0.2500", "50.0", "%"]


@pytest.mark.parametrize("comparison", [COMPARISON, ONE_SEED])
def test_the_picture(comparison: Comparison, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    hostile = replace(comparison, model=HOSTILE)
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for path in paths:
        save_plot(hostile, path)
    data = paths[0].read_bytes()
    assert data == paths[1].read_bytes(), "equal comparisons give equal files"
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (1800, 860)
    pixels = np.asarray(Image.open(paths[0]).convert("RGB"))
    assert np.all(pixels[0, 0] == 255), "a white background"
    for method, colour in COLOURS.items():
        found = np.all(pixels == colour, axis=2)
        assert found[:, :1000].sum() > 500 and found[:, 1000:].sum() > 500, f"{method} is in both panels"


def test_a_failed_cell_is_a_gap(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.png"
    save_plot(COMPARISON, path)
    pixels = np.asarray(Image.open(path).convert("RGB"))[:600, :970]  # the left panel without the legend
    left = {name: np.nonzero(np.all(pixels == colour, axis=2))[1].min() for name, colour in COLOURS.items()}
    assert left["gpfq"] < 200 < 400 < left["spfq"], "the line of spfq begins at the second width"

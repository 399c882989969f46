"""Reading an output directory again: what is complete, and what is refused."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.errors import UsageError
from deployq.finished_build import check_firmware, read_finished_build
from deployq.output import MARKER
from deployq.report import Report, dump_json, to_document
from deployq.vectors import FILE, save_vectors
from tests.report.test_report import REPORT

SAMPLES = np.arange(2 * 64, dtype=np.int8).reshape(2, 1, 8, 8)
EXPECTED = np.arange(20, dtype=np.int8).reshape(2, 10)


def _write(
    directory: Path, report: Report = REPORT, samples: object = SAMPLES, expected: object = EXPECTED
) -> None:
    (directory / MARKER).write_text(dump_json(to_document(report)), encoding="utf-8")
    save_vectors(directory, np.asarray(samples), np.asarray(expected))


def test_a_complete_one(tmp_path: Path) -> None:
    report = replace(REPORT, input=replace(REPORT.input, shape=(8, 4, 2)))
    samples = np.moveaxis(np.arange(2 * 64, dtype=np.int8).reshape(2, 8, 4, 2), 3, 1)
    _write(tmp_path, report, samples)
    build = read_finished_build(tmp_path)
    assert build.report == report and build.layout == "nhwc"
    inputs, outputs = build.c_vectors(1)
    assert np.array_equal(inputs, np.arange(64)[np.newaxis]) and np.array_equal(outputs, EXPECTED[:1])


@pytest.mark.parametrize(
    ("samples", "expected", "why"),
    [
        (SAMPLES[:0], EXPECTED[:0], "at least one sample"),
        (SAMPLES, EXPECTED[:1], "2 samples, 1 expected"),
        (SAMPLES.astype(np.int64) + 1000, EXPECTED, "int64"),
        (SAMPLES[:, :, :7], EXPECTED, "samples: 56 values a sample where the report says 64"),
        (SAMPLES, EXPECTED[:, :9], "expected: 9 values"),
        (SAMPLES[0, 0, 0], EXPECTED, r"int8 of shape \(8,\)"),
    ],
)
def test_vectors_of_another_network(samples: object, expected: object, why: str, tmp_path: Path) -> None:
    _write(tmp_path, REPORT, samples, expected)
    with pytest.raises(UsageError, match="cannot be used") as caught:
        read_finished_build(tmp_path)
    assert caught.match(why)


def test_vectors_that_are_no_arrays(tmp_path: Path) -> None:
    _write(tmp_path)
    with zipfile.ZipFile(tmp_path / FILE, "w") as archive:
        archive.writestr("samples.npy", "text")
        archive.writestr("expected.npy", "text")
    with pytest.raises(UsageError, match="not an array"):
        read_finished_build(tmp_path)


@pytest.mark.parametrize(
    "missing", ["n.c", "n.h", "n_weights.c", "n_weights.h", "dq_kernels.c", "dq_kernels.h"]
)
def test_a_library_that_lacks_a_file(missing: str, tmp_path: Path) -> None:
    firmware = tmp_path / "firmware"
    firmware.mkdir()
    for name in ("n.h", "n_weights.c", "n_weights.h", "dq_kernels.c", "dq_kernels.h"):
        (firmware / name).write_text("")
    (firmware / "n.c").write_text('#include "n.h"\n\n#include "n_weights.h"\n#include "dq_kernels.h"\n')
    check_firmware(tmp_path, "n")
    (firmware / missing).unlink()
    with pytest.raises(UsageError, match="not a complete output directory") as caught:
        check_firmware(tmp_path, "n")
    assert missing in caught.value.why


def test_a_single_file_needs_no_other(tmp_path: Path) -> None:
    (tmp_path / "firmware").mkdir()
    (tmp_path / "firmware" / "n.c").write_text('#include "n.h"\n')
    (tmp_path / "firmware" / "n.h").write_text("")
    check_firmware(tmp_path, "n")


def test_an_unknown_layout(tmp_path: Path) -> None:
    _write(tmp_path, replace(REPORT, input=replace(REPORT.input, layout="CHWN")))
    with pytest.raises(UsageError, match="'CHWN'"):
        read_finished_build(tmp_path)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", None], ids=str)
def test_a_damaged_file_of_vectors(content: bytes | None, tmp_path: Path) -> None:
    _write(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UsageError, match="cannot be used"):
        read_finished_build(tmp_path)


@pytest.mark.parametrize("content", ["{", "[" * 100_000], ids=["cut", "nested"])
def test_no_report(content: str, tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(UsageError, match="not a complete output directory"):
        read_finished_build(tmp_path)

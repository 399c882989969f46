"""Output directories are complete or untouched."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployq.errors import UsageError
from deployq.output import MARKER, check_replaceable, staged_directory


def test_a_finished_directory_replaces_the_old_one(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for text in ("first", "second"):
        with staged_directory(output) as staging:
            (staging / MARKER).write_text(text)
            if text == "first":
                (staging / "old").write_text("")
    assert (output / MARKER).read_text() == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert [path.name for path in output.iterdir()] == [MARKER]


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / MARKER).write_text("kept")
    with pytest.raises(RuntimeError), staged_directory(output) as staging:
        (staging / "half").write_text("")
        raise RuntimeError("stop")
    assert (output / MARKER).read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_foreign_directories_are_refused(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new", force=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        check_replaceable(tmp_path, force=False)
    check_replaceable(tmp_path, force=True)
    with pytest.raises(UsageError, match="is a file"):
        check_replaceable(tmp_path / "notes.txt", force=True)


def test_a_report_of_another_tool_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text('{"jest": 1}')
    with pytest.raises(UsageError, match="not written by deployq"):
        check_replaceable(tmp_path, force=False)
    (tmp_path / MARKER).write_text('{"schema_version": 1, "tool_version": "0"}')
    check_replaceable(tmp_path, force=False)
    (tmp_path / "precious.txt").write_text("")
    with pytest.raises(UsageError, match="not written by deployq"):
        check_replaceable(tmp_path, force=False)


def test_an_unwritable_parent_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"), staged_directory(tmp_path / "file" / "out"):
        pass

"""Damaged array files end as usage errors, whatever numpy and zipfile make of them."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from deployq import array_files
from deployq.array_files import read_array, split_labelled
from deployq.errors import ExitCode, UsageError

_ENCRYPTED, _METHOD = 6, 8  # offsets of flags and compression method in a local header
_CENTRAL = 2  # how much further they are in the central directory


def _member(content: bytes, compression: int = zipfile.ZIP_STORED, name: str = "x.npy") -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def _npy(header: str = "") -> bytes:
    file = BytesIO()
    np.save(file, np.zeros((64, 4), dtype=np.float32))
    if not header:
        return file.getvalue()
    padded = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def _with_field(offset: int, value: int) -> bytes:
    """An archive with a field of its headers changed."""
    data = bytearray(_member(_npy()))
    for start in (offset, data.index(b"PK\x01\x02") + offset + _CENTRAL):
        struct.pack_into("<H", data, start, value)
    return bytes(data)


def _damaged_lzma() -> bytes:
    data = bytearray(_member(_npy(), zipfile.ZIP_LZMA))
    start = data.index(b"x.npy") + len("x.npy") + 4
    data[start : start + 8] = b"\xff" * 8
    return bytes(data)


_HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (70368744177664, 4), }"
DAMAGED: dict[str, Callable[[], bytes]] = {
    "claims a petabyte": lambda: _member(_npy(_HUGE)),
    "header is no literal": lambda: _npy("{'descr': '<f4', 'shape': ((((((, "),
    "header is no literal in an archive": lambda: _member(_npy("{'descr': '<f4', [")),
    "not an array": lambda: _member(b"hello"),
    "encrypted": lambda: _with_field(_ENCRYPTED, 1),
    "unknown compression": lambda: _with_field(_METHOD, 97),
    "damaged lzma": _damaged_lzma,
    "a header of bytes": lambda: _npy("{'descr': b'<f4', 'fortran_order': False, 'shape': (1,), }"),
    "half an archive": lambda: _member(_npy())[:-30],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_a_usage_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(DAMAGED[name]())
    with pytest.raises(UsageError, match="cannot be read") as caught:
        read_array(path, "")
    assert caught.value.where == str(path) and caught.value.why


def _bomb(tmp_path: Path, content: bytes) -> UsageError:
    """What is said of an archive, with nothing of it decompressed but the header."""
    path = tmp_path / "data.npz"
    path.write_bytes(_member(content, zipfile.ZIP_DEFLATED))
    tracemalloc.start()
    with pytest.raises(UsageError, match="cannot be read") as caught:
        read_array(path, "")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * 2**20
    assert caught.value.exit_code == ExitCode.USAGE and caught.value.where == str(path)
    return caught.value


_NOTHING = bytes(64 * 2**20)


def test_an_array_larger_than_its_header_says(tmp_path: Path) -> None:
    error = _bomb(tmp_path, _npy() + _NOTHING)
    assert "claims 67,110,016 bytes" in error.why and "describes 1,152" in error.why


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    assert "not an array" in _bomb(tmp_path, _NOTHING).why


def test_a_header_as_large_as_a_file(tmp_path: Path) -> None:
    _bomb(tmp_path, b"\x93NUMPY\x02\x00" + struct.pack("<I", len(_NOTHING)) + _NOTHING)


_ZEROS = _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (67108864,), }") + _NOTHING


def test_an_array_larger_than_any_that_is_decompressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_files, "LARGEST_MEMBER", len(_ZEROS) - 1)
    assert f"at most {len(_ZEROS) - 1:,}" in _bomb(tmp_path, _ZEROS).why


def test_the_largest_array_that_is_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "LARGEST_MEMBER", len(_ZEROS))
    (tmp_path / "data.npz").write_bytes(_member(_ZEROS, zipfile.ZIP_DEFLATED))
    assert read_array(tmp_path / "data.npz", "").nbytes == len(_NOTHING)


def test_an_archive_without_a_directory_names_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    data = bytearray(_member(_npy()))
    data[data.index(b"PK\x01\x02")] = 0  # found to be an archive by its end, but its directory is damaged
    path.write_bytes(data)
    with pytest.raises(UsageError, match="cannot be read"):
        split_labelled(f"{path}:x,y")


def test_a_whole_archive(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(_member(_npy(), zipfile.ZIP_LZMA))
    assert read_array(tmp_path / "data.npz", "").shape == (64, 4)
    assert read_array(tmp_path / "data.npz", "x").shape == (64, 4)

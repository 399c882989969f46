"""Damaged array files end as usage errors, whatever numpy and zipfile make of them."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from deployq.array_files import read_array, split_labelled
from deployq.errors import UsageError

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

"""Arrays in .npy and .npz files that may come from anywhere, and how they are named on the command line."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.errors import UsageError

Array = npt.NDArray[Any]

#: Largest array that is decompressed, in bytes: twenty times the images of CIFAR-10 as 32-bit floats.
LARGEST_MEMBER = 4 * 2**30

_MAGIC = b"\x93NUMPY"

#: More than numpy reads of a header that it trusts.
_LARGEST_HEADER = 2**14

#: What numpy and zipfile make of damaged files: RuntimeError of encrypted members and unknown
#: compressions, MemoryError of a header that claims terabytes, TokenError and its like of a header that
#: is no Python literal.
DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def split_key(spec: str) -> tuple[Path, str]:
    """File and key of `file.npz:key`; a file whose own name contains a colon wins.

    Raises:
        UsageError: there is no such file.
    """
    if Path(spec).is_file():
        return Path(spec), ""
    name, _, key = spec.rpartition(":")
    if name and Path(name).is_file():
        return Path(name), key
    raise UsageError(
        "there is no such data file", where=spec, hint="a .npy, .npz, .npz:key or a folder of images"
    )


def split_labelled(spec: str) -> tuple[tuple[Path, str], tuple[Path, str]]:
    """Files and keys of samples and of labels: `file.npz:x_key,y_key` or `x.npy,y.npy`.

    Raises:
        UsageError: there are no such files or arrays, or an archive cannot be read.
    """
    path, colon, keys = spec.rpartition(":")
    values, comma, labels = keys.partition(",")
    if colon and comma and Path(path).is_file() and {values, labels} <= set(_keys(Path(path))):
        return (Path(path), values), (Path(path), labels)
    if not Path(spec).is_file():
        for index in (index for index, character in enumerate(spec) if character == ","):
            try:
                return split_key(spec[:index]), split_key(spec[index + 1 :])
            except UsageError:
                continue
    hint = "file.npz:x_key,y_key or x.npy,y.npy or a folder with one subfolder per class"
    archive = next((Path(name) for name in (spec, path) if Path(name).is_file()), None)
    why = f"it holds {', '.join(_keys(archive))}" if archive else "there are no such files"
    raise UsageError("this does not name samples and labels", where=spec, why=why, hint=hint)


def _keys(path: Path) -> list[str]:
    try:
        if not zipfile.is_zipfile(path):
            return ["one array without a name"]
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except DAMAGED as error:
        raise _unreadable(str(path), error) from error


def read_array(path: Path, key: str) -> Array:
    """One array of a .npy file (mapped) or of a .npz file; nothing pickled is ever loaded.

    Args:
        path: of the file.
        key: name in an archive; "" for a .npy file, or where an archive holds one array only.

    Raises:
        UsageError: the file is damaged or holds no such array.
    """
    where = f"{path}:{key}" if key else str(path)
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if key:
                raise UsageError("a .npy file holds one array without a name", where=where)
            return loaded
        with loaded:
            return read_member(loaded.zip, _name(list(loaded.files), path, key, where))
    except DAMAGED as error:
        raise _unreadable(where, error) from error


def read_member(archive: zipfile.ZipFile, name: str) -> Array:
    """One array of a .npz file, decompressed once what the archive and the array claim of it agrees.

    Args:
        archive: open for reading.
        name: of the array, with or without the .npy of its member.

    Raises:
        KeyError: there is no such member.
        ValueError: it is not an array of numbers, is larger than LARGEST_MEMBER, or claims another size than
            its header describes.
        Exception: others of DAMAGED.
    """
    info = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
    with archive.open(info) as member:
        needed = _described_bytes(BytesIO(member.read(_LARGEST_HEADER)))
    if info.file_size != needed:
        raise ValueError(
            f"the archive claims {info.file_size:,} bytes for the array, its own header describes {needed:,}"
        )
    if needed > LARGEST_MEMBER:
        raise ValueError(
            f"the array would take {needed:,} bytes, at most {LARGEST_MEMBER:,} are decompressed; "
            "a .npy file, which is not, may be larger"
        )
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _described_bytes(start: BytesIO) -> int:
    """Size of a .npy file whose first bytes are given."""
    if start.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("the member is not an array in the .npy format")
    start.seek(0)
    version = np.lib.format.read_magic(start)
    # Version 3 is version 2 with other characters allowed in names of fields.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(start)
    if dtype.hasobject:
        raise ValueError("the array holds Python objects")
    return start.tell() + math.prod(shape) * dtype.itemsize


def _name(names: list[str], path: Path, key: str, where: str) -> str:
    """The array of an archive that a key means."""
    if key and key not in names:
        raise UsageError(
            f"there is no array {key!r} in the file", where=where, why=f"it holds {', '.join(names)}"
        )
    if not key and len(names) != 1:
        why, hint = f"it holds {', '.join(names) or 'nothing'}", f"{path}:{names[0] if names else 'key'}"
        raise UsageError("the file does not hold exactly one array", where=where, why=why, hint=hint)
    return key or names[0]


def _unreadable(where: str, error: Exception) -> UsageError:
    why = "it claims to be larger than the memory" if isinstance(error, MemoryError) else str(error)
    return UsageError("the data file cannot be read", where=where, why=why or type(error).__name__)

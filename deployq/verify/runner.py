"""What the executors of the generated C share: the result's form and the files of the harness."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deployq.errors import UsageError, VerificationError
from deployq.verify.toolchain import disk_full, harness_directory

Int8Array = npt.NDArray[np.int8]
LayerOutputs = tuple[Int8Array, ...]

#: With less the disk is taken to be full where the harness cannot write.
_LEAST_SPACE_BYTES = 1 << 16

_RECORD_HEADER = np.dtype([("layer", "<u4"), ("bytes", "<u4")])


class RunResult(Protocol):
    """What every executor returns."""

    @property
    def outputs(self) -> Int8Array:
        """Int8 (samples, output_size), in the layout of the C function's output."""

    @property
    def layer_outputs(self) -> LayerOutputs | None:
        """One int8 (samples, layer_size) array per layer, HWC order; None if not asked for."""


def library_sources(firmware_dir: Path, prefix: str) -> tuple[Path, ...]:
    """The C files of a generated library, the one with the entry point first.

    Raises:
        UsageError: the directory has no library of that prefix.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", prefix):
        raise UsageError(f'"{prefix}" is not a C identifier', where="prefix of the library")
    for name in (f"{prefix}.h", f"{prefix}.c"):
        if not (firmware_dir / name).is_file():
            raise UsageError(f"{name} is missing", where=str(firmware_dir), hint="run deployq build")
    # A library generated as a single file has only the first.
    names = (f"{prefix}.c", f"{prefix}_weights.c", "dq_kernels.c")
    return tuple(firmware_dir / name for name in names if (firmware_dir / name).is_file())


def library_flags(firmware_dir: Path, *, layers: bool) -> tuple[str, ...]:
    """Compiler flags for the sources of the library."""
    flags = _include_flags(firmware_dir)
    if layers:
        flags += ("-include", str(harness_directory() / "dq_harness_hooks.h"))
    return flags


def _include_flags(firmware_dir: Path) -> tuple[str, ...]:
    """For #include "..." alone: no header of the library can stand in for one of the C library."""
    return ("-iquote", str(firmware_dir.resolve()))


def harness_flags(
    firmware_dir: Path, prefix: str, *, input_size: int, output_size: int, layers: bool
) -> tuple[str, ...]:
    """Compiler flags for the sources of the harness: the library's names, and the expected sizes."""
    upper = prefix.upper()
    names = ("ARENA_BYTES", "ARENA_ALIGN", "INPUT_SIZE", "OUTPUT_SIZE", "LAYER_COUNT")
    return (
        *_include_flags(firmware_dir),
        f"-I{harness_directory()}",
        *(("-DDQ_HARNESS_LAYERS",) if layers else ()),
        f'-DDQ_LIBRARY_HEADER="{prefix}.h"',
        f"-DDQ_RUN={prefix}_run",
        *(f"-DDQ_{name}={upper}_{name}" for name in names),
        f"-DDQ_SAMPLE_BYTES={input_size}",
        f"-DDQ_RESULT_BYTES={output_size}",
    )


def write_samples(directory: Path, samples: Int8Array) -> None:
    """Write the samples where the harness reads them.

    Args:
        directory: working directory of the harness.
        samples: int8 (samples, input_size), in the layout of the C function's input.

    Raises:
        UsageError: not an int8 matrix with at least one sample.
    """
    if samples.dtype != np.int8 or samples.ndim != 2 or samples.size == 0:
        raise UsageError(
            "samples must be a non-empty int8 array (samples, input_size)",
            why=f"they are {samples.dtype} {samples.shape}",
        )
    (directory / "samples.bin").write_bytes(np.ascontiguousarray(samples).tobytes())


def check_space(directory: Path, output: str) -> None:
    """After a failure of the harness: tell a full disk from a defect of the library.

    Args:
        directory: working directory of the harness.
        output: what the harness printed.

    Raises:
        UsageError: the harness could not write, and there is no space.
    """
    free = shutil.disk_usage(directory).free
    if "deployq: error cannot" in output and free < _LEAST_SPACE_BYTES:
        raise disk_full(f"{free} bytes are free")


def read_outputs(directory: Path, count: int, output_size: int) -> Int8Array:
    """Read what the harness wrote: int8 (count, output_size).

    Raises:
        VerificationError: the harness processed another number of samples.
    """
    file = directory / "outputs.bin"
    data = np.fromfile(file, dtype=np.int8) if file.is_file() else np.zeros(0, np.int8)
    if data.size != count * output_size:
        raise VerificationError(
            "the harness did not process every sample",
            why=f"{data.size} output bytes instead of {count} x {output_size}",
        )
    return data.reshape(count, output_size)


def read_layer_outputs(directory: Path, count: int) -> LayerOutputs:
    """Read the layer records of the harness: one (count, layer_size) array per layer.

    A layer of a cascade is reported stripe by stripe, from top to bottom.

    Raises:
        VerificationError: a layer is missing in some sample, or its size varies.
    """
    file = directory / "layers.bin"
    if not file.is_file():
        raise VerificationError("the harness wrote no outputs of layers")
    data = file.read_bytes()
    layers: dict[int, list[Int8Array]] = {}
    position = 0
    while position < len(data):
        header = np.frombuffer(data, _RECORD_HEADER, 1, position)[0]
        position += _RECORD_HEADER.itemsize
        size = int(header["bytes"])
        layers.setdefault(int(header["layer"]), []).append(np.frombuffer(data, np.int8, size, position))
        position += size
    return tuple(_joined(layer, layers.get(layer, []), count) for layer in range(max(layers, default=-1) + 1))


def _joined(layer: int, records: Sequence[Int8Array], count: int) -> Int8Array:
    """The records of a layer, one per sample or one per stripe of rows, as (count, layer_size)."""
    stripes = len(records) // count
    sizes = [record.size for record in records]
    if stripes == 0 or sizes != sizes[:stripes] * count:
        raise VerificationError(
            "the library does not report every layer alike in every sample",
            where=f"DQ_LAYER_OUTPUT of layer {layer}",
            why=f"{len(records)} records of sizes {sorted(set(sizes))} for {count} samples",
        )
    return np.concatenate(records).reshape(count, -1)

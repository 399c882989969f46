"""What is read again of an output directory of `deployq build`: its report and its test vectors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from deployq.array_files import DAMAGED
from deployq.errors import UsageError
from deployq.layout import to_c_order
from deployq.output import MARKER
from deployq.report.json import from_document
from deployq.report.model import Report, TensorReport
from deployq.vectors import FILE, Int8Array, load_vectors

_INCLUDE = re.compile(r'^#include "([A-Za-z0-9_]+)\.h"', re.MULTILINE)
_LAYOUTS = ("NHWC", "NCHW")


@dataclass(frozen=True)
class FinishedBuild:
    """A report and the test vectors that agree with it.

    Attributes:
        report: of the build.
        samples: int8 inputs (n, ...) in the order of the graph (NCHW), n at least 1.
        expected: int8 outputs (n, ...) of the Python reference.
    """

    report: Report
    samples: Int8Array
    expected: Int8Array

    @property
    def layout(self) -> str:
        """The `io_layout` of the build."""
        return self.report.input.layout.lower()

    def c_vectors(self, limit: int) -> tuple[Int8Array, Int8Array]:
        """Up to `limit` inputs and outputs as rows (n, size), in the order of the C function's buffers."""
        inputs, outputs = self.samples[:limit], self.expected[:limit]
        return to_c_order(inputs, self.layout), to_c_order(outputs, self.layout)


def read_finished_build(directory: Path) -> FinishedBuild:
    """Read report and test vectors.

    Raises:
        UsageError: not an output directory, a part of it is missing or damaged, or the parts do not agree.
    """
    try:
        document = json.loads((directory / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise incomplete(directory, str(error)) from error
    report = from_document(Report, document, str(directory / MARKER))
    try:
        samples, expected = load_vectors(directory)
    except DAMAGED as error:
        raise _damaged(directory, str(error) or type(error).__name__) from error
    for name, values, tensor in (("samples", samples, report.input), ("expected", expected, report.output)):
        why = _disagreement(values, tensor)
        if why:
            raise _damaged(directory, f"{name}: {why}")
    if len(samples) != len(expected):
        raise _damaged(directory, f"{len(samples)} samples, {len(expected)} expected outputs")
    return FinishedBuild(report, samples, expected)


def check_firmware(directory: Path, name: str) -> None:
    """Refuse a C library that lacks a file, before a compiler says so.

    Args:
        directory: written by `deployq build`.
        name: of the library.

    Raises:
        UsageError: a file is missing.
    """
    firmware = directory / "firmware"
    needed = [f"{name}.c", f"{name}.h"]
    try:
        source = (firmware / needed[0]).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        source = ""
    except OSError as error:
        raise incomplete(directory, str(error)) from error
    for header in _INCLUDE.findall(source):
        needed.append(f"{header}.h")
        if header in (f"{name}_weights", "dq_kernels"):
            needed.append(f"{header}.c")
    missing = [file for file in needed if not (firmware / file).is_file()]
    if missing:
        raise incomplete(directory, f"firmware/{missing[0]} is missing")


def incomplete(directory: Path, why: str) -> UsageError:
    """The error for something that is not, or no longer, what `deployq build` wrote."""
    return UsageError(
        "this is not a complete output directory of deployq",
        where=str(directory),
        why=why,
        hint="give a directory written by deployq build",
    )


def _disagreement(values: Int8Array, tensor: TensorReport) -> str:
    """What is wrong with test vectors of a tensor, "" if nothing is."""
    if tensor.layout not in _LAYOUTS:
        return f"the report gives the layout {tensor.layout!r}, known are {' and '.join(_LAYOUTS)}"
    if not isinstance(values, np.ndarray):  # numpy gives the bytes of what does not begin as a .npy file
        return "not an array"
    if values.dtype != np.int8 or values.ndim < 2 or not len(values):
        return f"{values.dtype} of shape {values.shape} where int8 of at least one sample is expected"
    if prod(values.shape[1:]) != prod(tensor.shape):
        return f"{prod(values.shape[1:])} values a sample where the report says {prod(tensor.shape)}"
    return ""


def _damaged(directory: Path, why: str) -> UsageError:
    return UsageError(
        "the test vectors of the build cannot be used",
        where=str(directory / FILE),
        why=why,
        hint="build again",
    )

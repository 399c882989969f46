"""Verify a generated library: ONNX Runtime, host C and C under QEMU against the Python reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from deployq.errors import ToolMissingError
from deployq.layout import to_c_order
from deployq.onnx_export import with_outputs
from deployq.targets import Target
from deployq.verify.compare import Difference, count_mismatches, first_difference
from deployq.verify.host import HostResult, run_host
from deployq.verify.onnxruntime import LEVELS, run_onnxruntime
from deployq.verify.qemu import QemuResult, run_qemu
from deployq.verify.toolchain import require_working

Int8Array = npt.NDArray[np.int8]
Progress = Callable[[str], None]

#: What the sizes and the stack of the library need of a target's toolchain, and what runs it on the host.
_SIZE_TOOLS = ("gcc", "size", "nm", "objdump")
_HOST_COMPILERS = ("gcc", "clang")

#: Samples searched for the first differing layer after a mismatch.
_TRACED_SAMPLES = 4


@dataclass(frozen=True)
class TracedLayer:
    """A layer of the C library and the tensor of the ONNX model it must equal.

    Attributes:
        name: of the layer.
        tensor: name in the ONNX model; "" for a transposition, which has no counterpart.
        rows: the C buffer is the transpose of the tensor seen as a matrix of that many rows;
            1 where both have the same order. HWC of (C, H, W) has C rows.
    """

    name: str
    tensor: str
    rows: int

    def in_c_order(self, values: Int8Array) -> Int8Array:
        """The tensor's batch (n, ...) as rows (n, size) in the order of the C buffer."""
        matrix = values.reshape(len(values), self.rows, -1)
        return np.ascontiguousarray(matrix.transpose(0, 2, 1)).reshape(len(values), -1)


@dataclass(frozen=True)
class Subject:
    """What is verified.

    Attributes:
        model: serialized integer ONNX model.
        layers: of the C library, in order.
        firmware: directory of the generated library.
        prefix: its C prefix.
        target: core it was generated for.
        io_layout: "nhwc" or "nchw", order of the C function's input and output.
        samples: int8 inputs (n, *shape), NCHW.
        expected: outputs of the Python reference (n, *shape), NCHW.
    """

    model: bytes
    layers: tuple[TracedLayer, ...]
    firmware: Path
    prefix: str
    target: Target
    io_layout: str
    samples: Int8Array
    expected: Int8Array


@dataclass(frozen=True)
class Outcome:
    """What one runner found.

    Attributes:
        samples: number of samples compared; 0 when skipped.
        mismatches: differing bytes.
        skipped: why the runner did not run, "" if it did.
        lacking: why one of its compilers took no part, "" if all did.
        difference: place of the first difference, None if there is none.
    """

    samples: int = 0
    mismatches: int = 0
    skipped: str = ""
    lacking: str = ""
    difference: Difference | None = None


@dataclass(frozen=True)
class Verification:
    """Outcomes of all runners by name ("onnxruntime", "host", "qemu"), and what QEMU measured."""

    outcomes: dict[str, Outcome]
    emulation: QemuResult | None = None

    @property
    def mismatches(self) -> int:
        """Differing bytes of all runners together."""
        return sum(outcome.mismatches for outcome in self.outcomes.values())


def require_size_tools(target: Target) -> None:
    """Refuse early what a build with a budget would refuse at its end.

    Raises:
        ToolMissingError: a tool that measures the library is missing or does not work.
    """
    for name in _SIZE_TOOLS:
        require_working(f"{target.toolchain_prefix}{name}")


def require_tools(target: Target) -> None:
    """Refuse early what a strict build or verification would refuse at its end.

    Raises:
        ToolMissingError: a tool that measures or runs the library is missing or does not work.
    """
    for name in (*_HOST_COMPILERS, *(() if target.is_host else ("qemu-system-arm",))):
        require_working(name)
    require_size_tools(target)


def verify_library(
    subject: Subject, *, qemu_samples: int, strict: bool, progress: Progress = lambda message: None
) -> Verification:
    """Run every executor on the same samples and compare every byte.

    Args:
        subject: what to verify.
        qemu_samples: how many of the samples to run in QEMU, which is slow.
        strict: a missing tool is an error instead of a skipped runner.
        progress: called with a line per runner.

    Raises:
        ToolMissingError: a compiler or emulator is missing or does not work and `strict` is set.
    """
    if strict:
        require_tools(subject.target)
    progress(f"verify: ONNX Runtime, {len(subject.samples)} samples")
    outcomes = {"onnxruntime": _verify_onnxruntime(subject)}
    progress(f"verify: C on the host (gcc under sanitizers, clang), {len(subject.samples)} samples")
    outcomes["host"] = _verify_host(subject, strict)
    if subject.target.is_host:
        outcomes["qemu"] = Outcome(skipped="the target is the host")
        return Verification(outcomes)
    progress(f"verify: C under QEMU, {min(qemu_samples, len(subject.samples))} samples")
    try:
        outcome, emulation = _verify_qemu(subject, qemu_samples)
    except ToolMissingError as error:
        if strict:
            raise
        return Verification(outcomes | {"qemu": Outcome(skipped=error.what)})
    return Verification(outcomes | {"qemu": outcome}, emulation)


def _verify_onnxruntime(subject: Subject) -> Outcome:
    """Both optimisation levels; a byte that differs at either counts."""
    mismatches = sum(
        count_mismatches(subject.expected, run_onnxruntime(subject.model, subject.samples, level)[0])
        for level in LEVELS
    )
    return Outcome(len(subject.samples), mismatches)


def _verify_host(subject: Subject, strict: bool) -> Outcome:
    """With gcc under the sanitizers, and with clang."""
    try:
        outcome = _verify_compiled(subject, "gcc", sanitize=True)
    except ToolMissingError as error:
        if strict:
            raise
        return Outcome(skipped=error.what)
    if outcome.mismatches:
        return outcome
    try:
        # Without sanitizers: clang's are a package of their own, and gcc's have seen the code.
        return _verify_compiled(subject, "clang", sanitize=False)
    except ToolMissingError as error:
        if strict:
            raise
        return replace(outcome, lacking=error.what)


def _verify_compiled(subject: Subject, compiler: Literal["gcc", "clang"], *, sanitize: bool) -> Outcome:
    samples = to_c_order(subject.samples, subject.io_layout)
    expected = to_c_order(subject.expected, subject.io_layout)

    def run(part: Int8Array, *, layers: bool) -> HostResult:
        return run_host(
            subject.firmware,
            subject.prefix,
            part,
            expected.shape[1],
            compiler=compiler,
            sanitize=sanitize,
            layers=layers,
        )

    found = run(samples, layers=False).outputs
    return _outcome(subject, expected, found, lambda part: run(part, layers=True).layer_outputs)


def _verify_qemu(subject: Subject, limit: int) -> tuple[Outcome, QemuResult]:
    samples = to_c_order(subject.samples[:limit], subject.io_layout)
    expected = to_c_order(subject.expected[:limit], subject.io_layout)

    def run(part: Int8Array, traced: int) -> QemuResult:
        return run_qemu(
            subject.firmware,
            subject.prefix,
            subject.target,
            part,
            expected.shape[1],
            layers=True,
            layer_samples=traced,
        )

    result = run(samples, 1)
    return _outcome(
        subject, expected, result.outputs, lambda part: run(part, len(part)).layer_outputs
    ), result


def _outcome(
    subject: Subject,
    expected: Int8Array,
    found: Int8Array,
    trace: Callable[[Int8Array], Sequence[Int8Array] | None],
) -> Outcome:
    mismatches = count_mismatches(expected, found)
    if not mismatches:
        return Outcome(len(expected), 0)
    wrong = np.flatnonzero((expected != found).any(axis=1))[:_TRACED_SAMPLES]
    traced = trace(to_c_order(subject.samples[wrong], subject.io_layout)) or []
    difference = _locate(subject, subject.samples[wrong], traced)
    if difference is None:
        difference = first_difference([""], [expected[wrong]], [found[wrong]])
    assert difference is not None
    return Outcome(
        len(expected), mismatches, difference=replace(difference, sample=int(wrong[difference.sample]))
    )


def _locate(subject: Subject, samples: Int8Array, traced: Sequence[Int8Array]) -> Difference | None:
    """First difference between the layers of the C library and those of the ONNX model."""
    pairs = [(layer, found) for layer, found in zip(subject.layers, traced, strict=False) if layer.tensor]
    if not pairs:
        return None
    model = with_outputs(subject.model, [layer.tensor for layer, _ in pairs])
    outputs = run_onnxruntime(model, samples, "OFF")
    reference = [layer.in_c_order(output) for (layer, _), output in zip(pairs, outputs, strict=True)]
    return first_difference([layer.name for layer, _ in pairs], reference, [found for _, found in pairs])

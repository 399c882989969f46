"""`deployq inspect` and `deployq verify`: look at a model, check a directory again."""

from __future__ import annotations

from pathlib import Path

from deployq.finished_build import check_firmware, read_finished_build
from deployq.finished_model import read_finished_model
from deployq.frontends.onnx import load_onnx
from deployq.graph import Graph, Node
from deployq.ops import WeightedOperator
from deployq.passes import simplify
from deployq.report.assemble import (
    check_verification,
    machine_note,
    verification_report,
    verification_warnings,
)
from deployq.report.model import InspectedLayer, InspectReport, VerificationReport
from deployq.steps import Progress, silent
from deployq.targets import load_target
from deployq.verify.executors import Subject, verify_library


def inspect_model(path: Path) -> InspectReport:
    """Import and simplify a model, list its layers.

    Raises:
        UsageError: there is no such file.
        ModelError: the model is not supported; all unsupported nodes are listed.
    """
    imported = load_onnx(path)
    graph = simplify(imported.graph)
    return InspectReport(
        model=graph.name,
        model_sha256=imported.sha256,
        producer=imported.producer,
        opset=imported.opset,
        input_shape=graph.tensors[graph.input].shape,
        output_shape=graph.tensors[graph.output].shape,
        layers=tuple(_inspected(graph, node) for node in graph.nodes),
    )


def _inspected(graph: Graph, node: Node) -> InspectedLayer:
    shape = graph.tensors[node.output].shape
    parameters = macs = 0
    if isinstance(node.op, WeightedOperator):
        parameters = node.op.weight.size + node.op.bias.size
        macs = node.op.weight.size * node.op.positions(graph.input_shapes(node)[0])
    return InspectedLayer(node.name, node.op.kind, shape, int(parameters), int(macs))


def verify_directory(
    directory: Path | str, *, strict: bool = False, qemu_samples: int = 64, progress: Progress = silent
) -> VerificationReport:
    """Run the executors of an output directory again on its test vectors.

    Args:
        directory: written by `deployq build`.
        strict: a missing compiler or emulator is an error.
        qemu_samples: how many samples to run in QEMU.
        progress: called with one line per runner.

    Raises:
        UsageError: not a directory of deployq, or damaged.
        VerificationError: an executor differs from the reference.
        ToolMissingError: a tool is missing and `strict` is set.
    """
    directory = Path(directory)
    build = read_finished_build(directory)
    check_firmware(directory, build.report.name)
    model = read_finished_model(directory, build)
    report = build.report
    target = load_target(report.target)
    subject = Subject(
        model=model.data,
        layers=model.layers,
        firmware=directory / "firmware",
        prefix=report.name,
        target=target,
        io_layout=build.layout,
        samples=build.samples,
        expected=build.expected,
    )
    verification = verify_library(subject, qemu_samples=qemu_samples, strict=strict, progress=progress)
    check_verification(verification)
    emulation = verification.emulation
    return VerificationReport(
        name=report.name,
        target=report.target,
        verification=verification_report(verification),
        instructions=emulation.instructions_per_inference if emulation else None,
        machine=machine_note(verification, target),
        warnings=verification_warnings(verification, target),
    )

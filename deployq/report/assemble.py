"""Build results to the report's data model."""

from __future__ import annotations

from deployq.codegen.generated import GeneratedLibrary
from deployq.config import BuildConfig
from deployq.errors import VerificationError
from deployq.graph import Tensor
from deployq.layerwise import IntegerModel
from deployq.report import model
from deployq.targets import Target
from deployq.verify.executors import Outcome, Verification
from deployq.verify.size import LibrarySize
from deployq.version import VERSION


def check_verification(verification: Verification) -> None:
    """Refuse a library that differs from the reference.

    Raises:
        VerificationError: names every runner that differs, and where.
    """
    wrong = {name: outcome for name, outcome in verification.outcomes.items() if outcome.mismatches}
    if wrong:
        places = [
            f"{name}: {outcome.mismatches} bytes, first {outcome.difference or 'unknown'}"
            for name, outcome in wrong.items()
        ]
        raise VerificationError(
            "the executors of the integer network disagree",
            why="; ".join(places),
            hint="this is a defect of deployq or of a tool: please report it with the model",
        )


def verification_report(verification: Verification) -> model.Verification:
    """Outcomes as the report shows them."""
    checks = {name: _check(outcome) for name, outcome in verification.outcomes.items()}
    return model.Verification(checks["onnxruntime"], checks["host"], checks["qemu"])


def _check(outcome: Outcome) -> model.Check:
    if outcome.skipped:
        return model.Skipped(outcome.skipped)
    return model.Checked(outcome.samples, outcome.mismatches)


def verification_warnings(verification: Verification, target: Target) -> tuple[str, ...]:
    """What was not checked, one sentence each; a host target needs no emulator."""
    skipped = [
        f"{name} was skipped: {outcome.skipped}"
        for name, outcome in verification.outcomes.items()
        if outcome.skipped and not (target.is_host and name == "qemu")
    ]
    lacking = [
        f"{name} ran with one compiler less: {outcome.lacking}"
        for name, outcome in verification.outcomes.items()
        if outcome.lacking
    ]
    return (*skipped, *lacking)


def machine_note(verification: Verification, target: Target) -> str | None:
    """What the emulator ran, with a note where it was not the target's first choice."""
    if verification.emulation is None:
        return None
    machine = verification.emulation.machine
    if machine == target.machines[0].name:
        return machine
    return f"{machine} ({target.architecture} code; too large for {target.machines[0].name})"


def assemble_report(
    network: IntegerModel,
    library: GeneratedLibrary,
    size: LibrarySize | None,
    accuracy: model.Accuracy,
    verification: Verification,
    target: Target,
    config: BuildConfig,
) -> model.Report:
    """The report of a finished build."""
    graph = network.graph
    emulation = verification.emulation
    counts = emulation.layer_instructions if emulation else None
    warnings = [*network.warnings, *verification_warnings(verification, target)]
    if size is None:
        warnings.append("code and stack were not measured: the compiler or its binutils are missing")
    return model.Report(
        tool_version=VERSION,
        name=library.prefix,
        target=target.name,
        model_sha256=network.source_sha256,
        input=_tensor(graph.tensors[graph.input], config.io_layout),
        output=_tensor(graph.tensors[graph.output], config.io_layout),
        accuracy=accuracy,
        memory=model.Memory(
            weights_bytes=library.weights_bytes,
            arena_bytes=library.arena_bytes,
            code_bytes=size.code_bytes if size else None,
            stack_bytes=size.stack_bytes if size else None,
        ),
        instructions=emulation.instructions_per_inference if emulation else None,
        layers=tuple(
            model.LayerReport(
                name=layer.name,
                op=layer.op,
                macs=layer.macs,
                weight_bits=layer.weight_bits or None,
                alphabet=layer.alphabet or None,
                weights_bytes=layer.weights_bytes,
                relative_error=network.relative_errors.get(layer.node),
                sparsity=network.sparsity.get(layer.node),
                accumulator_bits=layer.accumulator_bits or None,
                instructions=counts[index] if counts else None,
                stripes=layer.stripes,
            )
            for index, layer in enumerate(library.layers)
        ),
        verification=verification_report(verification),
        machine=machine_note(verification, target),
        warnings=tuple(warnings),
        notes=(*network.notes, *_execution_notes(library, config)),
        pareto=network.pareto,
    )


def _execution_notes(library: GeneratedLibrary, config: BuildConfig) -> list[str]:
    """What the user should know of the order in which the C computes."""
    notes = []
    striped = [layer for layer in library.layers if layer.stripes > 1]
    if striped:
        count = sum(layer.stripes for layer in striped)
        notes.append(
            f"{len(striped)} layers from {striped[0].name!r} to {striped[-1].name!r} run depth first, "
            f"in {count} stripes of rows; the hooks of a layer are called for each"
        )
    if config.input_rows:
        notes.append(
            f"{library.prefix}_run_rows asks for its input row by row; "
            "the stack of the function that gives rows comes on top"
        )
    return notes


def _tensor(tensor: Tensor, io_layout: str) -> model.TensorReport:
    assert tensor.quantization is not None
    shape = tensor.shape
    if len(shape) == 3 and io_layout == "nhwc":
        shape = (shape[1], shape[2], shape[0])
    return model.TensorReport(
        shape, io_layout.upper(), tensor.quantization.scale, tensor.quantization.zero_point
    )

"""`build`: import, simplify, calibrate, quantize, export and generate, verify, report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from deployq.accuracy import float_accuracy, integer_accuracy
from deployq.budget import check_accuracy, check_memory, check_ram
from deployq.codegen.generated import GeneratedLibrary, write_library
from deployq.codegen.optimize import check_input_rows
from deployq.config import BuildConfig
from deployq.data import Samples
from deployq.errors import ToolMissingError, UsageError
from deployq.evaluation import labelled_samples
from deployq.layerwise import IntegerModel
from deployq.output import staged_directory
from deployq.report.assemble import assemble_report, check_verification
from deployq.report.model import Accuracy, Report
from deployq.report.write import write_reports
from deployq.steps import (
    Prepared,
    Progress,
    export_onnx,
    generate_c,
    prepare,
    quantize_prepared,
    silent,
    traced_layers,
)
from deployq.targets import Target, load_target
from deployq.unused_settings import check_used
from deployq.vectors import save_vectors
from deployq.verify.executors import Subject, require_size_tools, require_tools, verify_library
from deployq.verify.float_io import check_float_io
from deployq.verify.reference import run_reference
from deployq.verify.size import LibrarySize, library_size

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class BuildResult:
    """What a build produced.

    Attributes:
        report: everything measured.
        directory: the output directory.
        network: the quantized network.
    """

    report: Report
    directory: Path
    network: IntegerModel


def build_from_config(config: BuildConfig, progress: Progress = silent) -> BuildResult:
    """Build what a configuration describes.

    Raises:
        DeployqError: with the exit code of the first thing that went wrong.
    """
    if config.model is None or config.calibration is None:
        missing = "model" if config.model is None else "calibration data"
        raise UsageError(f"no {missing} given", hint="deployq build MODEL --calib DATA, or a deployq.toml")
    return build(config.model, config.calibration, config, progress=progress)


def build(
    model: Path | str | torch.nn.Module,
    calibration: str | Array,
    config: BuildConfig | None = None,
    evaluation: str | tuple[Array, Array] | None = None,
    progress: Progress = silent,
) -> BuildResult:
    """Quantize a network, generate its C library, prove it exact and write it all to `config.output`.

    Args:
        model: ONNX file or torch module (in any mode; it is not changed).
        calibration: data specification or array (N, ...) of stored values, before preprocessing.
        config: everything else; the defaults if None.
        evaluation: labelled data (specification, or arrays of values and class numbers) to measure
            top-1 accuracy on.
        progress: called with one line per step.

    Raises:
        DeployqError: see `deployq.errors`; the output directory is then as it was before.
    """
    config = _resolved(config or BuildConfig(), model, calibration, evaluation)
    check_used(config)
    evaluation = config.evaluation if evaluation is None else evaluation
    if config.min_accuracy is not None and evaluation is None:
        raise UsageError(
            "the accuracy cannot be known", where="--min-accuracy", hint="give labelled data with --eval"
        )
    target = load_target(config.target)
    if config.strict:
        require_tools(target)
    elif config.flash is not None or config.ram is not None:
        require_size_tools(target)
    inputs = (config.model, config.calibration, config.evaluation)
    with staged_directory(config.output, force=config.force, inputs=inputs) as staging:
        progress("import the model")
        prepared = prepare(model, calibration, config)
        if config.input_rows:
            check_input_rows(prepared.graph.tensors[prepared.graph.input].shape, config.io_layout)
        labelled = None if evaluation is None else labelled_samples(evaluation, prepared, config)
        network = quantize_prepared(prepared, config, progress, labelled)
        report = _write_build(staging, prepared, network, labelled, target, config, progress)
    return BuildResult(report, config.output, network)


def _write_build(
    staging: Path,
    prepared: Prepared,
    network: IntegerModel,
    labelled: tuple[Samples, Array] | None,
    target: Target,
    config: BuildConfig,
    progress: Progress,
) -> Report:
    """Generate, measure, verify; everything that the output directory holds goes to `staging`."""
    library = generate_c(network, config)
    check_ram(config, library)
    firmware = staging / "firmware"
    write_library(library, firmware)
    size = _size(firmware, library, target, config)
    check_memory(config, library, size)
    accuracy = _accuracy(prepared, network, labelled, progress)
    check_accuracy(config, accuracy)
    samples = labelled[0] if labelled else prepared.samples
    subject = _subject(staging, network, library, samples, target, config)
    verification = verify_library(
        subject, qemu_samples=config.verify_samples, strict=config.strict, progress=progress
    )
    check_verification(verification)
    report = assemble_report(network, library, size, accuracy, verification, target, config)
    write_reports(report, staging)
    (staging / "build.toml").write_text(config.to_toml(), encoding="utf-8")
    return report


def _resolved(
    config: BuildConfig,
    model: Path | str | torch.nn.Module,
    calibration: str | Array,
    evaluation: str | tuple[Array, Array] | None,
) -> BuildConfig:
    """The configuration with the files that were given beside it, as build.toml shall name them."""
    given: dict[str, Any] = {}
    if isinstance(model, (str, Path)):
        given["model"] = Path(model)
    if isinstance(calibration, str):
        given["calibration"] = calibration
    if isinstance(evaluation, str):
        given["evaluation"] = evaluation
    return replace(config, **given)


def _accuracy(
    prepared: Prepared, network: IntegerModel, labelled: tuple[Samples, Array] | None, progress: Progress
) -> Accuracy:
    if labelled is None:
        return Accuracy()
    progress(f"evaluate on {len(labelled[0])} samples")
    return Accuracy(
        float_accuracy(prepared.graph, *labelled),
        integer_accuracy(network.graph, *labelled),
        len(labelled[0]),
    )


def _size(
    firmware: Path, library: GeneratedLibrary, target: Target, config: BuildConfig
) -> LibrarySize | None:
    """Compiled sizes; None without the compiler, an error if the user is strict or set a budget."""
    try:
        size = library_size(firmware, library.prefix, target)
    except ToolMissingError:
        if config.strict or config.flash is not None or config.ram is not None:
            raise
        return None
    if config.single_file:  # one object holds both
        code = size.code_bytes - library.weights_bytes
        return replace(size, code_bytes=code, weights_bytes=library.weights_bytes)
    return size


def _subject(
    staging: Path,
    network: IntegerModel,
    library: GeneratedLibrary,
    samples: Samples,
    target: Target,
    config: BuildConfig,
) -> Subject:
    """Write the ONNX models and the test vectors; everything the verification needs."""
    model = export_onnx(network, library).SerializeToString()
    (staging / "model.onnx").write_bytes(model)
    tensors, graph = network.graph.tensors, network.graph
    source, target_quantization = tensors[graph.input].quantization, tensors[graph.output].quantization
    assert source is not None and target_quantization is not None
    inputs = samples.quantized(source, slice(0, config.host_samples))
    expected = run_reference(graph, inputs)
    save_vectors(staging, inputs, expected)
    if config.float_io:
        with_float = export_onnx(network, float_io=True).SerializeToString()
        check_float_io(with_float, inputs, expected, source, target_quantization)
        (staging / "model_float_io.onnx").write_bytes(with_float)
    return Subject(
        model=model,
        layers=traced_layers(network, library),
        firmware=staging / "firmware",
        prefix=library.prefix,
        target=target,
        io_layout=config.io_layout,
        samples=inputs,
        expected=expected,
    )

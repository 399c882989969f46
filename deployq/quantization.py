"""`deployq quantize`: one network as integer ONNX with a report, or the comparison of several ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployq.comparison import DEFAULT_WIDTHS, ComparisonPlan, base_width, compare
from deployq.config import AUTO_BITS, BuildConfig
from deployq.config_file import load_config
from deployq.errors import UsageError
from deployq.experiment import open_experiment, shared_settings
from deployq.output import QUANTIZATION_FILES, check_inputs_stay, staged_directory
from deployq.report.comparison import Comparison, render_comparison
from deployq.report.json import dump_json, to_document
from deployq.report.quantization import QuantizationReport, render_quantization
from deployq.steps import Progress, export_onnx, silent
from deployq.unused_settings import check_used
from deployq.version import VERSION

#: Where results go without -o. The `output` of a configuration file is for builds: it holds firmware.
DEFAULT_OUTPUT, DEFAULT_COMPARISON = "deployq-quantized", "deployq-comparison"


@dataclass(frozen=True)
class QuantizeResult:
    """What the command produced: its report, the same as text, and the directory it wrote."""

    report: QuantizationReport | Comparison
    text: str
    directory: Path


def quantize_from_options(
    options: Mapping[str, Any],
    config_file: Path | None = None,
    methods: str | None = None,
    seeds: int | None = None,
    progress: Progress = silent,
) -> QuantizeResult:
    """Do what the command line asks for.

    Args:
        options: settings by name; "bits" may be a list with commas where methods are compared.
        config_file: TOML file to read instead of that in the current directory.
        methods: names with commas to compare, None to quantize once.
        seeds: calibration subsets per cell of a comparison; None for one.
        progress: called with one line per step.

    Raises:
        DeployqError: see `quantize_to_directory` and `compare`.
    """
    if methods is None:
        if seeds is not None:
            raise UsageError("several seeds are for a comparison", where="--seeds", hint="give --compare")
        widths = str(options.get("bits", ""))
        if "," in widths:
            raise UsageError(
                f"several widths, {widths!r}, for one network",
                where="--bits",
                hint=f"--compare auto --bits {widths}, or --layer-bits NAME=4 for one layer",
            )
        config = load_config({"output": DEFAULT_OUTPUT, **options}, config_file=config_file)
        check_inputs_stay(config.output, [config_file])  # a build.toml too, which only a build writes again
        report = quantize_to_directory(config, progress)
        return QuantizeResult(report, render_quantization(report), config.output)
    wrong = next((name for name in ("method", "alphabet") if name in options), None)
    if wrong is not None:
        hint = "list the methods with --compare" if wrong == "method" else "list the widths with --bits"
        raise UsageError(f"a comparison takes no {wrong}", where=f"--{wrong}", hint=hint)
    widths = options.get("bits", DEFAULT_WIDTHS)
    given = {"output": DEFAULT_COMPARISON, **options, "bits": base_width(widths)}
    config = load_config(given, config_file=config_file)
    check_inputs_stay(config.output, [config_file])
    comparison = compare(
        config, ComparisonPlan.parse(config, methods, widths, 1 if seeds is None else seeds), progress
    )
    return QuantizeResult(comparison, render_comparison(comparison), config.output)


def quantize_to_directory(config: BuildConfig, progress: Progress = silent) -> QuantizationReport:
    """Quantize a network, measure it and write model.onnx and the report to `config.output`.

    Raises:
        UsageError: the data or the output directory cannot be used.
        ModelError: the model is not supported, or cannot be represented in the integer arithmetic.
    """
    check_used(config)
    for name in ("flash", "ram"):
        if getattr(config, name) is not None and config.bits != AUTO_BITS:
            raise UsageError(
                "without C code there is no size to check",
                where=f"--{name}",
                hint="deployq build, or --bits auto to choose the widths by",
            )
    inputs = (config.model, config.calibration, config.evaluation)
    with staged_directory(
        config.output, force=config.force, files=QUANTIZATION_FILES, inputs=inputs
    ) as staging:
        experiment = open_experiment(config, progress=progress)
        outcome = experiment.run(config, config.seed, progress)
        trial = outcome.trial
        report = QuantizationReport(
            tool_version=VERSION,
            model=config.model.stem if config.model else "model",
            model_sha256=experiment.prepared.sha256,
            method=config.method,
            bits=config.bits,
            bits_per_weight=outcome.bits_per_weight,
            measure=experiment.measure,
            score=trial.score,
            relative_error=trial.relative_error,
            quantize_seconds=trial.quantize_seconds,
            seconds=trial.seconds,
            calibration_samples=len(experiment.draws[0]),
            configuration=shared_settings(config, ("method", "bits")),
            layers=outcome.layers,
            notes=outcome.network.notes,
            warnings=experiment.warnings,
            pareto=outcome.network.pareto,
        )
        (staging / "model.onnx").write_bytes(export_onnx(outcome.network).SerializeToString())
        (staging / "quantization.json").write_text(dump_json(to_document(report)), encoding="utf-8")
        (staging / "quantization.txt").write_text(render_quantization(report), encoding="utf-8")
    return report

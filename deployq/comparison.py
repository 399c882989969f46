"""`deployq quantize --compare`: every method at every width, measured on one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from deployq.config import AUTO_BITS, METHODS, BuildConfig
from deployq.errors import DeployqError, ModelError, UsageError
from deployq.experiment import Experiment, MeasuredNetwork, open_experiment, shared_settings
from deployq.output import COMPARISON_FILES, staged_directory
from deployq.report.comparison import Cell, Comparison, FailedCell, render_comparison
from deployq.report.json import dump_json, to_document
from deployq.report.plot import require_plotting, save_plot
from deployq.report.quantization import QuantizedLayer
from deployq.steps import Progress, silent
from deployq.version import VERSION

DEFAULT_WIDTHS = "1,ternary,2,3,4"
_MOST_SEEDS = 100


@dataclass(frozen=True)
class ComparisonPlan:
    """What to compare.

    Attributes:
        methods: names of quantizers.
        widths: weight widths, as in `BuildConfig.bits`.
        seeds: how many calibration subsets each cell is repeated with.
    """

    methods: tuple[str, ...]
    widths: tuple[str, ...]
    seeds: int = 1

    @staticmethod
    def parse(
        config: BuildConfig, methods: str, widths: str = DEFAULT_WIDTHS, seeds: int = 1
    ) -> ComparisonPlan:
        """A plan from lists separated by commas; repeated names count once.

        Args:
            config: the settings the cells share.
            methods: e.g. "gpfq,msq".
            widths: e.g. "1,ternary,2".
            seeds: 1 to 100.

        Raises:
            UsageError: an unknown method or width, an empty list, or too many seeds.
        """
        if not 1 <= seeds <= _MOST_SEEDS:
            raise UsageError(f"seeds is {seeds}", where="--seeds", why=f"it must be in 1 .. {_MOST_SEEDS}")
        found = _names(methods, "--compare")
        for name in found:
            if name not in METHODS:
                raise UsageError(f"unknown method {name!r}", where="--compare", hint=", ".join(METHODS))
        bits = [cell_config(config, "gpfq", name).bits for name in _names(widths, "--bits")]
        return ComparisonPlan(tuple(dict.fromkeys(found)), tuple(dict.fromkeys(bits)), seeds)


def base_width(widths: str) -> str:
    """The width with which to read a configuration that is to be compared at several ones."""
    names = _names(widths, "--bits")
    return AUTO_BITS if AUTO_BITS in names else names[0]


def cell_config(config: BuildConfig, method: str, bits: str) -> BuildConfig:
    """The configuration of a cell; a budget for widths is one of the width "auto" alone."""
    return replace(
        config,
        method=method,
        bits=bits,
        alphabet=None,
        average_bits=config.average_bits if bits == AUTO_BITS else None,
        max_drop=config.max_drop if bits == AUTO_BITS else None,
    )


def _names(text: str, where: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"a name is missing in {text!r}", where=where, hint="names separated by commas")
    return names


def compare(config: BuildConfig, plan: ComparisonPlan, progress: Progress = silent) -> Comparison:
    """Quantize and measure every cell and write table, document and plot to `config.output`.

    Args:
        config: everything but method, width and seed.
        plan: methods, widths and number of seeds.
        progress: called with two lines per cell and seed.

    Raises:
        UsageError: the data or the output directory cannot be used, or matplotlib is missing.
        ModelError: the model is not supported, or all cells failed.
    """
    require_plotting()
    inputs = (config.model, config.calibration, config.evaluation)
    with staged_directory(
        config.output, force=config.force, files=COMPARISON_FILES, inputs=inputs
    ) as staging:
        comparison = measure_all(config, plan, progress)
        _write(comparison, staging)
    return comparison


def measure_all(config: BuildConfig, plan: ComparisonPlan, progress: Progress = silent) -> Comparison:
    """The comparison without writing anything; see `compare`."""
    experiment = open_experiment(config, plan.seeds, progress)
    cells: list[Cell | FailedCell] = []
    total = len(plan.methods) * len(plan.widths)
    for method in plan.methods:
        for bits in plan.widths:
            place = f"{len(cells) + 1} of {total}, {method} at {bits}"
            cells.append(_cell(experiment, config, method, bits, partial(_tell, progress, place)))
    failures = [cell for cell in cells if isinstance(cell, FailedCell)]
    if len(failures) == len(cells):
        why = f"{failures[0].method} at {failures[0].bits}: {failures[0].failure}"
        raise ModelError("every method failed at every width", why=why)
    return Comparison(
        tool_version=VERSION,
        model=config.model.stem if config.model else "model",
        model_sha256=experiment.prepared.sha256,
        measure=experiment.measure,
        calibration_samples=len(experiment.draws[0]),
        seeds=experiment.seeds,
        methods=plan.methods,
        widths=plan.widths,
        configuration=shared_settings(config, ("method", "bits", "alphabet", "seed")),
        cells=tuple(cells),
        warnings=experiment.warnings,
    )


def _tell(progress: Progress, place: str, text: str) -> None:
    progress(f"{place}: {text}")


def _cell(
    experiment: Experiment, config: BuildConfig, method: str, bits: str, progress: Progress
) -> Cell | FailedCell:
    """One cell; what prevents it becomes its result, so that the others are not lost."""
    outcomes = []
    try:
        settings = cell_config(config, method, bits)
        for seed in experiment.seeds:
            progress(f"seed {seed}")
            outcomes.append(experiment.run(settings, seed))
            trial = outcomes[-1].trial
            progress(f"seed {seed}: {trial.score:.2f} %, {trial.seconds:.1f} s")
    except DeployqError as error:
        place = "" if error.where.startswith("--") else error.where  # the cell says which method and width
        reason = ", ".join(filter(None, (error.what, place, error.why)))
        progress(f"failed: {reason}")
        return FailedCell(method, bits, reason)
    except (ArithmeticError, ValueError) as error:  # a numerical failure of one method
        reason = f"{type(error).__name__}: {error}"
        progress(f"failed: {reason}")
        return FailedCell(method, bits, reason)
    return _average(method, bits, outcomes)


def _average(method: str, bits: str, outcomes: Sequence[MeasuredNetwork]) -> Cell:
    trials = [outcome.trial for outcome in outcomes]
    scores = [trial.score for trial in trials]
    errors = [trial.relative_error for trial in trials]
    layers = tuple(map(_mean_layer, zip(*(outcome.layers for outcome in outcomes), strict=True)))
    weights = sum(layer.weights for layer in layers)
    zeros = sum(layer.sparsity * layer.weights for layer in layers)
    return Cell(
        method=method,
        bits=bits,
        bits_per_weight=float(np.mean([outcome.bits_per_weight for outcome in outcomes])),
        score=float(np.mean(scores)),
        score_spread=max(scores) - min(scores),
        relative_error=float(np.mean(errors)),
        relative_error_spread=max(errors) - min(errors),
        sparsity=zeros / weights if weights else 0.0,
        solver_seconds=float(np.mean([trial.solver_seconds for trial in trials])),
        quantize_seconds=float(np.mean([trial.quantize_seconds for trial in trials])),
        seconds=float(np.mean([trial.seconds for trial in trials])),
        trials=tuple(trials),
        layers=layers,
        notes=tuple(dict.fromkeys(note for outcome in outcomes for note in outcome.network.notes)),
    )


def _mean_layer(layers: tuple[QuantizedLayer, ...]) -> QuantizedLayer:
    """One layer over all seeds."""
    return replace(
        layers[0],
        relative_error=float(np.mean([layer.relative_error for layer in layers])),
        sparsity=float(np.mean([layer.sparsity for layer in layers])),
    )


def _write(comparison: Comparison, directory: Path) -> None:
    (directory / "comparison.json").write_text(dump_json(to_document(comparison)), encoding="utf-8")
    (directory / "comparison.txt").write_text(render_comparison(comparison), encoding="utf-8")
    save_plot(comparison, directory / "comparison.png")

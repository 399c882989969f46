"""From calibrated samples to an integer network: quantize the weights, tune scales and biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from deployq.accuracy import float_accuracy, integer_accuracy
from deployq.alphabet import alphabet, default_alphabet
from deployq.calibration import Calibration
from deployq.config import AUTO_BITS, BuildConfig
from deployq.data import Labels, Samples
from deployq.errors import AccuracyError
from deployq.layerwise import IntegerModel, WeightSettings, quantize_graph
from deployq.pareto import LayerWidth
from deployq.recipes import Recipe, recipe
from deployq.training.settings import TuneSettings, split_samples
from deployq.widths import by_hand, within_budget

Progress = Callable[[str], None]


def recipe_of(config: BuildConfig, samples: int) -> Recipe:
    """The method's recipe with what the user set by hand."""
    chosen = recipe(config.method, config.bits, samples)
    given = {name: getattr(config, name) for name in ("order", "refine", "ridge", "copies", "tune")}
    return replace(chosen, **{name: value for name, value in given.items() if value is not None})


def weight_settings(config: BuildConfig, chosen: Recipe) -> WeightSettings:
    """How the weights are quantized; without the alphabets of single layers."""
    named = config.alphabet or default_alphabet("8" if config.bits == AUTO_BITS else config.bits).name
    options = config.solver_options(chosen.order, chosen.ridge)
    return WeightSettings(
        alphabet(named),
        chosen.method,
        config.granularity,
        config.seed,
        options,
        chosen.refine,
        task=config.task,
        compensate=chosen.compensate,
    )


def quantized(
    calibration: Calibration,
    config: BuildConfig,
    progress: Progress,
    labelled: tuple[Samples, Labels] | None = None,
) -> IntegerModel:
    """Quantize the weights, and tune scales and biases if the recipe says so.

    Args:
        calibration: the network and its samples.
        config: method, widths or the budget for them.
        progress: called with a line per step.
        labelled: samples that the accuracies of a choice of widths are measured on.

    Raises:
        DeployqError: see `quantize_graph` and `within_budget`.
    """
    if labelled is not None and config.task == "auto":  # labels are class numbers
        config = replace(config, task="classification")
    plan = plan_of(calibration, config)
    if config.bits != AUTO_BITS:
        return solved(calibration, plan, config, progress)
    allocation = within_budget(plan.fitted, plan.weights, config, labelled, progress)
    drop = 0.0
    for layers in (allocation.alphabets, *allocation.larger):
        widths = replace(plan, weights=replace(plan.weights, layers=layers))
        network = solved(calibration, widths, config, progress)
        if config.max_drop is None or labelled is None:
            break
        # The widths were chosen on networks quantized on fewer samples and not tuned.
        drop = float_accuracy(calibration.graph, *labelled) - integer_accuracy(network.graph, *labelled)
        if drop <= config.max_drop:
            break
        progress(f"the accuracy drops by {drop:.2f} points: try larger widths")
    else:
        raise AccuracyError(
            f"no choice of widths loses at most {config.max_drop:g} points",
            where="--max-drop",
            why=f"the last one tried loses {drop:.2f}",
            hint="allow more flash, or a larger drop",
        )
    table = allocation.table.with_chosen(
        tuple(LayerWidth(name, letters.name) for name, letters in layers.items())
    )
    return replace(network, notes=(*allocation.notes, *network.notes), pareto=table)


@dataclass(frozen=True)
class QuantizationPlan:
    """What a configuration means for a network and its samples.

    Attributes:
        recipe: of the method, with what the user set by hand.
        weights: how weights are quantized.
        tuning: how scales and biases are tuned.
        fitted: the samples the weights are fitted to; those that judge the tuning are not among them.
    """

    recipe: Recipe
    weights: WeightSettings
    tuning: TuneSettings
    fitted: Calibration


def plan_of(calibration: Calibration, config: BuildConfig) -> QuantizationPlan:
    """The plan of a configuration; layers have the alphabet of `bits` or one chosen by hand.

    Raises:
        UsageError: a layer chosen by hand does not exist.
    """
    chosen = recipe_of(config, len(calibration.samples))
    settings = replace(weight_settings(config, chosen), layers=by_hand(calibration.graph, config))
    tuning = TuneSettings(
        chosen.tune,
        augmentation=calibration.augmentation,
        seed=config.seed,
        granularity=config.granularity,
        task=config.task,
    )
    fitted = calibration
    if tuning.passes:
        indices, _ = split_samples(len(calibration.samples), tuning)
        fitted = replace(calibration, samples=calibration.samples.take(indices))
    return QuantizationPlan(chosen, settings, tuning, fitted)


def solved(
    calibration: Calibration, plan: QuantizationPlan, config: BuildConfig, progress: Progress
) -> IntegerModel:
    """Quantize and tune as planned."""
    network = quantize_graph(
        calibration.graph,
        calibration.quantizations,
        plan.fitted.batches(plan.recipe.copies, config.seed),
        plan.weights,
        progress,
    )
    return tuned(calibration, network, plan.tuning, progress)


def tuned(
    calibration: Calibration, network: IntegerModel, settings: TuneSettings, progress: Progress
) -> IntegerModel:
    """The network after tuning, with a note on what it brought."""
    if not settings.passes:
        return network
    from deployq.training.distill import tune  # loads torch

    progress("tune scales and biases")
    outcome = tune(calibration.graph, network, calibration.codes(), settings, progress)
    return replace(outcome.network, notes=(*network.notes, outcome.note))

"""One float network, loaded once, to be quantized and measured in several ways."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.calibration import allowed_augmentation
from deployq.codegen.packing.streams import dense
from deployq.config import BuildConfig
from deployq.config_values import map_data_paths
from deployq.data import Samples
from deployq.doubts import doubts
from deployq.errors import UsageError
from deployq.evaluation import Evaluation, labelled_samples
from deployq.layerwise import IntegerModel
from deployq.ops import QuantizedWeights
from deployq.random_streams import Purpose, stream
from deployq.report.comparison import Trial
from deployq.report.quantization import EXPLAINED, Measure, QuantizedLayer
from deployq.steps import Prepared, Progress, prepare, quantize_prepared, silent

Indices = npt.NDArray[np.int64]

#: More than any file holds: all samples are wanted.
_NO_LIMIT = 10**9
#: Samples on which the integer network is compared with the float network at most, and the fewest unused ones
#: with which it is worth to leave the calibration samples out.
_MOST_COMPARED, _FEWEST_UNUSED = 2000, 100

#: Settings that say where something is or what C is generated, not how the network is quantized.
_NOT_ABOUT_WEIGHTS = frozenset(
    "name output io_layout float_io single_file input_rows min_accuracy strict "
    "verify_samples host_samples force".split()
)


@dataclass(frozen=True)
class MeasuredNetwork:
    """A quantized network and what was measured of it."""

    network: IntegerModel
    trial: Trial
    layers: tuple[QuantizedLayer, ...]
    bits_per_weight: float


@dataclass(frozen=True)
class Experiment:
    """A float network with its calibration samples and its evaluation.

    Attributes:
        prepared: the float network; its samples are all that there are.
        draws: the calibration samples of each seed.
        first_seed: seed of the first draw; the others follow.
        evaluation: what scores are measured on.
        warnings: what the user should know, one sentence each.
    """

    prepared: Prepared
    draws: tuple[Samples, ...]
    first_seed: int
    evaluation: Evaluation
    warnings: tuple[str, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seed of each draw."""
        return tuple(range(self.first_seed, self.first_seed + len(self.draws)))

    @property
    def measure(self) -> Measure:
        """What the scores mean."""
        evaluation = self.evaluation
        return Measure(evaluation.kind, len(evaluation.samples), evaluation.float_accuracy)

    def run(self, config: BuildConfig, seed: int, progress: Progress = silent) -> MeasuredNetwork:
        """Quantize as configured with the samples of a seed, and measure.

        Raises:
            DeployqError: the method refuses the alphabet, or a layer cannot be represented.
        """
        draw = self.draws[seed - self.first_seed]
        started = time.perf_counter()
        prepared = replace(self.prepared, samples=draw)
        known = self.evaluation.float_accuracy is not None
        labelled = (self.evaluation.samples, self.evaluation.answers) if known else None
        network = quantize_prepared(prepared, replace(config, seed=seed), progress, labelled)
        quantized = time.perf_counter()
        score = self.evaluation.score(network.graph)
        finished = time.perf_counter()
        layers = _layers(network)
        error = float(np.mean([layer.relative_error for layer in layers])) if layers else 0.0
        trial = Trial(seed, score, error, network.solver_seconds, quantized - started, finished - started)
        return MeasuredNetwork(network, trial, layers, _bits_per_weight(network))


def open_experiment(config: BuildConfig, seeds: int = 1, progress: Progress = silent) -> Experiment:
    """Import and simplify the network, load the data and evaluate the float network.

    With one seed the calibration samples are those of `deployq build`, spread over the data; with
    several, every seed draws as many at random.

    Raises:
        UsageError: no model or data are given, they cannot be read or do not fit, or copies of samples are
            asked for that nothing may be done to.
        ModelError: the model is not supported.
    """
    if config.model is None or config.calibration is None:
        missing = "model" if config.model is None else "calibration data"
        raise UsageError(f"no {missing} given", hint="deployq quantize MODEL --calib DATA, or a deployq.toml")
    progress("import the model")
    limit = config.calibration_limit
    needed = limit if seeds == 1 and config.evaluation else _NO_LIMIT
    prepared = prepare(config.model, config.calibration, replace(config, calibration_limit=needed))
    allowed_augmentation(config, prepared.graph.tensors[prepared.graph.input].shape)
    everything = prepared.samples
    drawn = _draw(len(everything), limit, config.seed, seeds)
    warnings = list(doubts(prepared.graph, everything))
    if seeds > 1 and limit >= len(everything):
        warnings.append(
            f"the calibration data hold {len(everything)} samples, which every seed uses: "
            "the spread shows only what else is random"
        )
    labelled = labelled_samples(config.evaluation, prepared, config) if config.evaluation else None
    if labelled is not None:
        progress(f"evaluate the float network on {len(labelled[0])} samples")
        evaluation = Evaluation.of_labels(prepared.graph, *labelled)
    else:
        unused = np.setdiff1d(np.arange(len(everything)), np.concatenate(drawn))
        if len(unused) < _FEWEST_UNUSED:
            unused = np.arange(len(everything))
            warnings.append("the score is measured on the calibration samples, too: there are no others")
        chosen = unused[_spread(len(unused), _MOST_COMPARED)]
        progress(f"run the float network on {len(chosen)} samples")
        evaluation = Evaluation.of_answers(prepared.graph, everything.take(chosen), config.task)
        if evaluation.kind == EXPLAINED and config.task == "auto":
            warnings.append(
                "not known to be a classifier: --task classification counts equal answers, --eval right ones"
            )
    draws = tuple(everything.take(indices) for indices in drawn)
    return Experiment(prepared, draws, config.seed, evaluation, tuple(warnings))


def _draw(count: int, limit: int, first_seed: int, seeds: int) -> list[Indices]:
    """Indices of the calibration samples of every seed."""
    if seeds == 1 or limit >= count:
        return [_spread(count, limit)] * seeds
    generators = [stream(Purpose.CALIBRATION_DRAW, first_seed + index) for index in range(seeds)]
    return [np.sort(generator.choice(count, limit, replace=False)) for generator in generators]


def _spread(count: int, limit: int) -> Indices:
    """At most `limit` of `count` indices, evenly spread as those of `deployq build`."""
    used = min(count, limit)
    return np.arange(used, dtype=np.int64) * count // used


def _weights(network: IntegerModel) -> dict[str, QuantizedWeights]:
    """The quantized weights by node name."""
    return {
        node.name: node.op.accumulation.weights
        for node in network.graph.nodes
        if hasattr(node.op, "accumulation")
    }


def _layers(network: IntegerModel) -> tuple[QuantizedLayer, ...]:
    kinds = {node.name: node.op.kind for node in network.graph.nodes}
    return tuple(
        QuantizedLayer(
            name=name,
            op=kinds[name],
            alphabet=weights.alphabet.name,
            weights=int(weights.levels.size),
            weights_bytes=weights.levels.shape[0]
            * dense(weights.alphabet.bits).row_bytes(weights.levels.shape[1]),
            relative_error=network.relative_errors[name],
            sparsity=float(np.mean(weights.levels == 0)),
        )
        for name, weights in _weights(network).items()
        if name in network.relative_errors
    )


def _bits_per_weight(network: IntegerModel) -> float:
    """Mean over all weights of log2(number of levels), padding and scales not counted."""
    sizes = [(weights.levels.size, weights.alphabet.levels) for weights in _weights(network).values()]
    total = sum(size for size, _ in sizes)
    return float(sum(size * np.log2(levels) for size, levels in sizes) / total) if total else 0.0


def shared_settings(config: BuildConfig, without: Iterable[str] = ()) -> dict[str, Any]:
    """The settings a quantization depends on, as plain values; of paths only the last part."""
    left_out = _NOT_ABOUT_WEIGHTS | set(without)
    names = [item.name for item in fields(config) if item.name not in left_out]
    values = {name: getattr(config, name) for name in names}
    for name in ("calibration", "evaluation"):
        if values[name] is not None:
            values[name] = map_data_paths(values[name], lambda path: Path(path).name)
    values["model"] = None if config.model is None else config.model.name
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

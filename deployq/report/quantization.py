"""The report of `deployq quantize`: one network, quantized once, without C."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployq.pareto import ParetoTable, render_pareto
from deployq.report.text import printable, render_listing

#: What a score is: where the evaluation data have labels; where they have none, of a classifier, and of
#: any other network.
ACCURACY, AGREEMENT, EXPLAINED = "accuracy", "agreement", "explained variance"


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer with weights.

    Attributes:
        name: from the model.
        op: kind of operator.
        alphabet: name of the weight alphabet.
        weights: number of weights.
        weights_bytes: packed codes, padding included, without biases and multipliers; many zeros may
            take less on the device.
        relative_error: |X W - X~ Q| / |X W| on the calibration samples.
        sparsity: share of weights whose level is zero, 0 to 1.
    """

    name: str
    op: str
    alphabet: str
    weights: int
    weights_bytes: int
    relative_error: float
    sparsity: float


@dataclass(frozen=True)
class Measure:
    """What the scores of a report mean.

    Attributes:
        kind: "accuracy" (percent of labels), "agreement" (percent of the float network's own answers) or
            "explained variance" (percent of the variance of the float network's outputs; below 0 where
            their mean would be a better answer).
        samples: how many the scores are of.
        float_accuracy: of the float network in percent; None without labels.
    """

    kind: str
    samples: int
    float_accuracy: float | None

    @property
    def sentence(self) -> str:
        """E.g. "accuracy in percent on 500 labelled samples"."""
        if self.kind == ACCURACY:
            return f"accuracy in percent on {self.samples:,} labelled samples"
        if self.kind == AGREEMENT:
            return f"agreement with the float network in percent on {self.samples:,} samples"
        return f"explained variance of the float outputs in percent on {self.samples:,} samples"


@dataclass(frozen=True)
class QuantizationReport:
    """What `deployq quantize` found out.

    Attributes:
        tool_version: version of deployq.
        model: name of the model.
        model_sha256: hexadecimal digest of the source model.
        method: name of the quantizer.
        bits: weight width as given.
        bits_per_weight: mean over all weights of log2(number of levels).
        measure: what `score` is.
        score: in percent, of the integer network with int8 activations.
        relative_error: mean over the layers.
        quantize_seconds: calibration, statistics, quantizer, refinement and tuning.
        seconds: the same and the evaluation.
        calibration_samples: how many were used.
        configuration: the settings the result depends on.
        layers: those with weights, in order of execution.
        notes: what the quantizer has to say, one sentence each.
        warnings: what the user should know, one sentence each.
        pareto: flash against accuracy of other widths, where deployq chose them.
    """

    tool_version: str
    model: str
    model_sha256: str
    method: str
    bits: str
    bits_per_weight: float
    measure: Measure
    score: float
    relative_error: float
    quantize_seconds: float
    seconds: float
    calibration_samples: int
    configuration: Mapping[str, Any]
    layers: tuple[QuantizedLayer, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    pareto: ParetoTable | None = None


def width_label(bits: str) -> str:
    """A weight width in words."""
    if not bits.isdigit():
        return bits
    return "1 bit" if bits == "1" else f"{bits} bits"


def render_quantization(report: QuantizationReport) -> str:
    """The report as plain text; the first line is the verdict."""
    measure = report.measure
    beside = "" if measure.float_accuracy is None else f", float {measure.float_accuracy:.2f} %"
    size = sum(layer.weights_bytes for layer in report.layers)
    lines = [
        f"{printable(report.model)}, {report.method}, {width_label(report.bits)}: "
        f"{measure.kind} {report.score:.2f} %{beside}",
        "",
        f"{measure.sentence}, int8 activations, {report.calibration_samples:,} calibration samples",
        f"{report.bits_per_weight:.2f} bits per weight, {size:,} bytes of packed weights",
        f"{report.quantize_seconds:.1f} s to quantize, {report.seconds:.1f} s in all",
        *[f"note: {printable(note)}" for note in report.notes],
        *[f"WARNING: {printable(warning)}" for warning in report.warnings],
        "",
    ]
    columns = ("layer", "op", "alphabet", "weights", "bytes", "error", "zeros")
    rows = [
        (
            layer.name,
            layer.op,
            layer.alphabet,
            f"{layer.weights:,}",
            f"{layer.weights_bytes:,}",
            f"{layer.relative_error:.4f}",
            f"{100 * layer.sparsity:.1f} %",
        )
        for layer in report.layers
    ]
    table = "" if report.pareto is None else f"\n{render_pareto(report.pareto)}"
    return "\n".join(lines) + "\n" + render_listing(columns, rows) + table

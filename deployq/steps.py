"""The steps of a build, each usable by itself: prepare, quantize, export_onnx, generate_c."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnx

from deployq import onnx_export
from deployq.calibration import calibrated
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, GeneratedLibrary
from deployq.config import BuildConfig
from deployq.data import (
    RAW_PIXELS,
    Labels,
    Preprocessing,
    Samples,
    as_array,
    fold_preprocessing,
    load_samples,
    pixel_quantization,
    samples_of_array,
)
from deployq.doubts import doubts
from deployq.errors import ModelError, UsageError
from deployq.frontends.onnx import ImportedModel, load_onnx
from deployq.graph import Graph, Quantization
from deployq.layerwise import IntegerModel
from deployq.passes import simplify
from deployq.post_training import quantized
from deployq.targets import load_target
from deployq.unused_settings import check_used
from deployq.verify.executors import TracedLayer
from deployq.version import VERSION

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
Progress = Callable[[str], None]


def silent(message: str) -> None:
    """The progress function of callers who do not want any."""


@dataclass(frozen=True)
class Prepared:
    """A float network and its calibration data, ready to be quantized.

    Attributes:
        graph: simplified float graph.
        sha256: digest of the source model.
        samples: calibration samples.
        input_quantization: fixed by the data (pixels), or None to be calibrated.
        preprocessing: of samples given to `graph`; the identity where it was folded into the graph.
    """

    graph: Graph
    sha256: str
    samples: Samples
    input_quantization: Quantization | None
    preprocessing: Preprocessing


def prepare(model: Path | str | torch.nn.Module, calibration: str | Array, config: BuildConfig) -> Prepared:
    """Import a model, simplify it and load its calibration samples.

    Args:
        model: ONNX file or torch module.
        calibration: data specification (see `deployq.data.load_samples`) or array (N, ...) of stored
            values, before preprocessing.
        config: layout, preprocessing and limits.

    Raises:
        UsageError: data that cannot be read or do not fit.
        ModelError: a model that is not supported.
    """
    preprocessing = Preprocessing(config.layout, config.scale, _factor(config.mean), _factor(config.std))
    if not isinstance(calibration, str):
        calibration = as_array(calibration, "the array of calibration samples")
    imported = _import(model, calibration, preprocessing)
    shape = imported.graph.tensors[imported.graph.input].shape
    if isinstance(calibration, str):
        samples = load_samples(
            calibration, preprocessing, shape, config.calibration_limit, resize=config.resize
        )
    else:
        samples = samples_of_array(calibration, preprocessing, shape, config.calibration_limit)
    graph, quantization = imported.graph, None
    if samples.is_pixels:
        quantization = pixel_quantization(preprocessing)
        if quantization is None:
            graph, quantization = fold_preprocessing(graph, preprocessing), RAW_PIXELS
            samples = samples.unprocessed
    return Prepared(simplify(graph), imported.sha256, samples, quantization, samples.preprocessing)


def _factor(values: tuple[float, ...]) -> float | tuple[float, ...]:
    return values[0] if len(values) == 1 else values


def _import(
    model: Path | str | torch.nn.Module, calibration: str | Array, preprocessing: Preprocessing
) -> ImportedModel:
    if isinstance(model, (str, Path)):
        return load_onnx(Path(model))
    from deployq.frontends.torch import check_module, load_torch_shape

    check_module(model)
    if isinstance(calibration, str):
        raise UsageError(
            "a torch module needs its calibration samples as an array",
            why="a module does not tell the shape of its input",
            hint="load the data yourself and pass the array",
        )
    stored = calibration[:2]
    if stored.ndim == 4 and preprocessing.layout == "nhwc":
        stored = stored.transpose(0, 3, 1, 2)
    return load_torch_shape(model, stored.shape[1:])


def quantize_prepared(
    prepared: Prepared,
    config: BuildConfig,
    progress: Progress = silent,
    labelled: tuple[Samples, Labels] | None = None,
) -> IntegerModel:
    """Calibrate activations and quantize weights of a prepared network.

    Args:
        prepared: float network and calibration samples.
        config: method, widths or the budget for them.
        progress: called with a line per step.
        labelled: samples on which a choice of widths shows its accuracies, and `max_drop` is measured.

    Raises:
        DeployqError: see `deployq.post_training.quantized`.
    """
    samples = prepared.samples
    calibration = calibrated(prepared.graph, samples, prepared.input_quantization, config, progress)
    network = quantized(calibration, config, progress, labelled)
    return replace(
        network,
        source_sha256=prepared.sha256,
        takes_pixels=samples.is_pixels,
        warnings=doubts(prepared.graph, samples),
    )


def quantize(
    model: Path | str | torch.nn.Module, calibration: str | Array, config: BuildConfig | None = None
) -> IntegerModel:
    """Quantize a network after training.

    Args:
        model: ONNX file or torch module.
        calibration: data specification or array (N, ...) of stored values.
        config: alphabet, method, preprocessing; the defaults if None.

    Raises:
        DeployqError: see `prepare` and `quantize_graph`.
    """
    config = config or BuildConfig()
    check_used(config)
    return quantize_prepared(prepare(model, calibration, config), config)


def generate_c(network: IntegerModel, config: BuildConfig | None = None) -> GeneratedLibrary:
    """Generate the C library of a quantized network for `config.target`.

    Raises:
        UsageError: unknown target, or a prefix that is not a C identifier.
        ModelError: a layer whose integer range cannot be proven safe.
    """
    config = config or BuildConfig()
    options = EmitOptions(
        prefix=config.prefix,
        io_layout=config.io_layout,
        version=VERSION,
        model_sha256=network.source_sha256,
        input_note="q = pixel - 128" if network.takes_pixels else "",
        single_file=config.single_file,
        optimize=config.optimize,
        input_rows=config.input_rows,
    )
    return generate(network.graph, load_target(config.target), options)


def traced_layers(network: IntegerModel, library: GeneratedLibrary) -> tuple[TracedLayer, ...]:
    """What the layers of the library correspond to in the ONNX model."""
    outputs = {node.name: node.output for node in network.graph.nodes}
    return tuple(
        TracedLayer(layer.name, outputs.get(layer.node, ""), layer.order.rows if layer.order else 1)
        for layer in library.layers
    )


def export_onnx(
    network: IntegerModel, library: GeneratedLibrary | None = None, *, float_io: bool = False
) -> onnx.ModelProto:
    """The integer ONNX model of a quantized network.

    Args:
        network: quantized network.
        library: its C library; with it the model records which tensor each C layer computes.
        float_io: take and give real values instead of int8.
    """
    alphabets = {
        node.name: node.op.accumulation.weights.alphabet.name
        for node in network.graph.nodes
        if hasattr(node.op, "accumulation")
    }
    metadata = {
        "deployq_version": VERSION,
        "source_sha256": network.source_sha256,
        "alphabets": json.dumps(alphabets),
    }
    if library is not None:
        layers = [[layer.name, layer.tensor, layer.rows] for layer in traced_layers(network, library)]
        metadata["c_layers"] = json.dumps(layers)
    try:
        return onnx_export.export_onnx(network.graph, metadata, float_io=float_io)
    except onnx.checker.ValidationError as error:
        raise ModelError("the integer ONNX model is not valid", why=str(error)) from error

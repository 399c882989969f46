"""The benchmark networks of DEPLOYQ_DATA: where they are, how they are fed, how they are verified."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from deployq.accuracy import float_accuracy, integer_accuracy
from deployq.codegen.generated import write_library
from deployq.config import BuildConfig
from deployq.data import Labels, Samples, load_labelled
from deployq.layerwise import IntegerModel
from deployq.steps import Prepared, export_onnx, generate_c, prepare, quantize_prepared, traced_layers
from deployq.targets import load_target
from deployq.verify.executors import Subject, Verification, verify_library
from deployq.verify.reference import run_reference

VARIABLE = "DEPLOYQ_DATA"


@dataclass(frozen=True)
class Network:
    """A network and its data: an archive with x_train, x_test, y_test, and the input's scale."""

    name: str
    archive: str
    layout: str
    scale: float


NETWORKS = {
    network.name: network
    for network in (
        Network("mlp_mnist", "mnist.npz", "nchw", 1 / 255),
        Network("cnn_cifar10", "cifar10.npz", "nhwc", 1 / 255),
        Network("resnet8ft", "cifar10.npz", "nhwc", 1.0),
    )
}

#: The MLPerf Tiny networks and their calibration samples: archive and key.
MLPERF_TINY = {
    "ad01_autoencoder": "mlperf_tiny_samples.npz:ad01_x",
    "resnet8": "cifar10.npz:x_train",
    "kws_dscnn": "mlperf_tiny_samples.npz:kws_x",
    "vww_mobilenetv1": "mlperf_tiny_samples.npz:vww_x",
}


def data_directory() -> Path | None:
    """The directory of DEPLOYQ_DATA, None where it is not set."""
    value = os.environ.get(VARIABLE)
    return Path(value) if value else None


def configuration(
    network: Network, bits: str, seed: int = 0, samples: int = 1024, method: str = "gpfq"
) -> BuildConfig:
    """The configuration a user of the network would write; with the quickest method unless asked."""
    directory = data_directory()
    assert directory is not None
    return BuildConfig(
        model=directory / "models" / f"{network.name}.onnx",
        calibration=f"{directory / network.archive}:x_train",
        evaluation=f"{directory / network.archive}:x_test,y_test",
        bits=bits,
        method=method,
        layout=network.layout,
        scale=network.scale,
        seed=seed,
        calibration_limit=samples,
        name="net",
    )


def mlperf_configuration(name: str, bits: str, method: str = "msq") -> BuildConfig:
    """The configuration of an MLPerf Tiny network; few samples: neither speed nor exactness need more."""
    directory = data_directory()
    assert directory is not None
    return BuildConfig(
        model=directory / "models" / f"{name}.onnx",
        calibration=str(directory / MLPERF_TINY[name]),
        bits=bits,
        method=method,
        layout="nhwc",
        calibration_limit=256,
        name="net",
    )


@dataclass(frozen=True)
class Quantized:
    """A network quantized by deployq, with all it takes to verify it for any target."""

    config: BuildConfig
    prepared: Prepared
    network: IntegerModel

    @staticmethod
    def build(config: BuildConfig) -> Quantized:
        """Import, calibrate and quantize."""
        assert config.model is not None and config.calibration is not None
        prepared = prepare(config.model, config.calibration, config)
        return Quantized(config, prepared, quantize_prepared(prepared, config))

    def accuracy(self) -> tuple[float, float]:
        """Float and quantized top-1 accuracy in percent on the whole test part."""
        labelled = self._evaluation()
        return float_accuracy(self.prepared.graph, *labelled), integer_accuracy(self.network.graph, *labelled)

    def _evaluation(self) -> tuple[Samples, Labels]:
        assert self.config.evaluation is not None
        graph = self.prepared.graph
        shape = graph.tensors[graph.input].shape
        return load_labelled(self.config.evaluation, self.prepared.preprocessing, shape)

    def verify(self, target: str, *, host_samples: int, qemu_samples: int) -> Verification:
        """All four executors on the first samples of the test part, or else of those for calibration."""
        config = replace(self.config, target=target)
        library = generate_c(self.network, config)
        graph = self.network.graph
        quantization = graph.tensors[graph.input].quantization
        assert quantization is not None
        given = self._evaluation()[0] if config.evaluation is not None else self.prepared.samples
        samples = given.quantized(quantization, slice(0, host_samples))
        with tempfile.TemporaryDirectory() as directory:
            write_library(library, Path(directory))
            subject = Subject(
                model=export_onnx(self.network, library).SerializeToString(),
                layers=traced_layers(self.network, library),
                firmware=Path(directory),
                prefix=library.prefix,
                target=load_target(target),
                io_layout=config.io_layout,
                samples=samples,
                expected=run_reference(graph, samples),
            )
            return verify_library(subject, qemu_samples=qemu_samples, strict=True)

"""What zero weights are worth on the device: accuracy, flash and instructions of sparse ternary networks.

    DEPLOYQ_DATA=... python -m tests.sparsity    # about five minutes
    python -m tests.sparsity --costs             # the constants of deployq/codegen/sparse_choice.py

For every threshold of sparse-gpfq: top-1 accuracy on the whole test part, share of zeros, and bytes of
all tables and instructions per inference under QEMU, with dense weights and as generated. Then, for one
threshold, every layer: why its weights are sparse on the device, or are not.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deployq.accuracy import integer_accuracy
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, GeneratedLibrary, write_library
from deployq.codegen.kernels import OPTIMIZE, Core, choose_kernel, weight_format
from deployq.codegen.packing.gaps import GAP_FORMATS, GapFormat
from deployq.codegen.sparse_choice import CORTEX_M0PLUS, CORTEX_M3, CORTEX_M4
from deployq.config import BuildConfig
from deployq.data import load_labelled
from deployq.graph import Graph
from deployq.layerwise import IntegerModel
from deployq.layout import to_c_order
from deployq.quantizers.options import THRESHOLDS
from deployq.quantizers.sparse_gpfq import sparsity
from deployq.steps import prepare, quantize_prepared
from deployq.targets import load_target
from deployq.verify.qemu import run_qemu
from deployq.verify.reference import run_reference
from tests.codegen.sparse_networks import Levels, conv_graph, forced_format, linear_graph, random_levels
from tests.networks import NETWORKS, configuration, data_directory

_LAMBDAS = "0,0.25,0.5,0.75,1,1.5"
_CORES = {"cortex-m4": CORTEX_M4, "cortex-m3": CORTEX_M3, "cortex-m0plus": CORTEX_M0PLUS}


@dataclass(frozen=True)
class Device:
    """A library on an emulated core: its facts, instructions per inference, of all layers and each."""

    generated: GeneratedLibrary
    instructions: int
    layers: tuple[int, ...]

    @staticmethod
    def of(
        graph: Graph, target: str, samples: Levels, layout: GapFormat | str | None, optimize: str = "balanced"
    ) -> Device:
        """Generate, run on samples and compare with the reference.

        Args:
            graph: integer graph.
            target: name of an emulated target.
            samples: int8 (n, ...).
            layout: of fully connected layers; None for dense, "chosen" for what code generation chooses.
            optimize: for what it chooses.
        """
        with nullcontext() if isinstance(layout, str) else forced_format(layout):
            library = generate(graph, load_target(target), EmitOptions("net", optimize=optimize))
        expected = to_c_order(run_reference(graph, samples), "nhwc")
        with tempfile.TemporaryDirectory() as directory:
            write_library(library, Path(directory))
            given = to_c_order(samples, "nhwc")
            result = run_qemu(
                Path(directory), "net", load_target(target), given, expected.shape[1], layers=True
            )
        if not np.array_equal(result.outputs, expected):
            raise SystemExit(f"{graph.name} on {target}: wrong outputs")
        assert result.layer_instructions is not None
        return Device(library, result.instructions_per_inference, result.layer_instructions)

    @property
    def sparse_layers(self) -> list[str]:
        """Names of the layers whose weights are lists of gaps."""
        return [layer.name for layer in self.generated.layers if "_gaps" in layer.function]


@dataclass(frozen=True)
class Outcome:
    """A quantized network: accuracy in percent, and by target the dense and the generated library."""

    accuracy: float
    devices: dict[str, tuple[Device, Device]]


def row_levels(network: IntegerModel, name: str) -> Levels:
    """Levels (rows, taps) of a layer, the channels of a convolution innermost."""
    (op,) = (node.op for node in network.graph.nodes if node.name == name)
    if op.kind == "conv2d":
        return op.levels.transpose(0, 2, 3, 1).reshape(len(op.levels), -1)  # type: ignore[attr-defined, no-any-return]
    return op.accumulation.weights.levels  # type: ignore[attr-defined, no-any-return]


def all_levels(network: IntegerModel) -> Levels:
    return np.concatenate([row_levels(network, name).reshape(-1) for name in network.sparsity])


class Experiment:
    """One benchmark network; equal quantizations are measured once."""

    def __init__(self, name: str, targets: list[str], optimize: str) -> None:
        config = configuration(NETWORKS[name], "ternary")
        self.config: BuildConfig = replace(config, method="sparse-gpfq")
        assert config.model is not None and config.calibration is not None and config.evaluation is not None
        self.targets, self.optimize = targets, optimize
        self.prepared = prepare(config.model, config.calibration, self.config)
        graph = self.prepared.graph
        shape = graph.tensors[graph.input].shape
        self.evaluation = load_labelled(config.evaluation, self.prepared.preprocessing, shape)
        self.known: dict[str, Outcome] = {}

    def quantize(self, threshold: str, strength: float) -> IntegerModel:
        return quantize_prepared(self.prepared, replace(self.config, threshold=threshold, sparsity=strength))

    def measure(self, network: IntegerModel) -> Outcome:
        graph = network.graph
        digest = hashlib.sha256(all_levels(network).tobytes()).hexdigest()
        if digest not in self.known:
            quantization = graph.tensors[graph.input].quantization
            assert quantization is not None
            samples = self.evaluation[0].quantized(quantization, slice(0, 2))
            devices = {}
            for target in self.targets:
                chosen = Device.of(graph, target, samples, "chosen", self.optimize)
                dense = Device.of(graph, target, samples, None) if chosen.sparse_layers else chosen
                devices[target] = (dense, chosen)
            self.known[digest] = Outcome(integer_accuracy(graph, *self.evaluation), devices)
        return self.known[digest]


def print_network(
    name: str, targets: list[str], lambdas: list[float], explained: float, optimize: str
) -> None:
    """The table of a network, and its layers at one threshold."""
    experiment = Experiment(name, targets, optimize)
    heads = "".join(f" {target:>31}{'sparse':>8}" for target in targets)
    print(
        f"\n{name}: ternary, 1,024 samples; for each core: bytes, instructions, dense -> as generated; layers"
    )
    print(f"{'':>11} {'accuracy':>8} {'zeros':>7}{heads}")
    layers: list[str] = []
    for threshold in THRESHOLDS:
        for strength in lambdas:
            network = experiment.quantize(threshold, strength)
            outcome = experiment.measure(network)
            zeros = 100 * sparsity(all_levels(network))
            line = f"{threshold:>5} {strength:5.2f} {outcome.accuracy:8.2f} {zeros:6.1f}%"
            for target in targets:
                line += _device_columns(*outcome.devices[target])
            print(line, flush=True)
            if threshold == "soft" and strength == explained:
                layers = [
                    line
                    for target in targets
                    for line in _layer_lines(network, target, *outcome.devices[target])
                ]
    print("\n".join(layers), flush=True)


def _device_columns(dense: Device, chosen: Device) -> str:
    flash = f"{dense.generated.weights_bytes}->{chosen.generated.weights_bytes}"
    count = f"{_short(dense.instructions)}->{_short(chosen.instructions)}"
    weighted = sum(layer.weight_bits > 0 for layer in chosen.generated.layers)
    return f" {flash:>15} {count:>15}{len(chosen.sparse_layers):>5}/{weighted}"


def _short(instructions: int) -> str:
    return f"{instructions / 1e6:.3f}M"


def _layer_lines(network: IntegerModel, target: str, dense: Device, chosen: Device) -> Iterator[str]:
    """Why each layer is sparse or dense."""
    yield f"\n  layers on {target}: bits in flash and instructions per weight and output pixel"
    heads = f"{'non-zero':>8} {'dense':>12} {'4-bit gaps':>13} {'8-bit gaps':>13}  bytes saved"
    yield f"  {'':>12} {heads}  as generated"
    features = load_target(target).features
    for index, layer in enumerate(dense.generated.layers):
        if not layer.weight_bits:
            continue
        levels = row_levels(network, layer.name)
        dense_bytes = len(levels) * weight_format(layer.weight_bits, Core(features)).row_bytes(
            levels.shape[1]
        )
        packings = [layout.pack(levels) for layout in GAP_FORMATS]
        saved = dense_bytes - min(len(packing.data) for packing in packings)
        line = f"  {layer.name:>12} {100 * np.mean(levels != 0):7.1f}%"
        line += f" {8 * dense_bytes / levels.size:5.2f} {dense.layers[index] / layer.macs:6.2f}"
        for packing in packings:
            cost = _CORES[target][layer.op].gaps[packing.layout.bits]
            estimate = cost.of(*levels.shape, packing.listed) / levels.size
            line += f" {8 * len(packing.data) / levels.size:6.2f} {estimate:6.2f}"
        now = chosen.generated.layers[index].function
        measured = f", {chosen.layers[index] / layer.macs:.2f} measured" if "_gaps" in now else ""
        yield f"{line} {saved:12}  {now}{measured}"


#: Rows and taps of the layers that are measured, and densities in the same order.
_SHAPES = {
    "linear": ((16, 64), (32, 64), (16, 512), (32, 512), (64, 256), (24, 256), (32, 400)),
    "conv2d": ((16, 144), (32, 144), (16, 576), (32, 576), (64, 288), (24, 288), (16, 432)),
}
_DENSITIES = (0.3, 0.3, 0.3, 0.3, 0.25, 0.6, 0.1)


def print_costs(target: str, kind: str) -> None:
    """Fit the instructions of layers of several shapes and print what one weight, row and input cost."""
    for layout in (None, *GAP_FORMATS):
        terms, counted = [], []
        for (rows, taps), density in zip(_SHAPES[kind], _DENSITIES, strict=True):
            levels = random_levels(rows, taps, density)
            width = 24 if kind == "conv2d" else 1
            graph = conv_graph(levels, (2, width), 3) if kind == "conv2d" else linear_graph(levels)
            pixels = 2 * width if kind == "conv2d" else 1
            shape = graph.tensors["x"].shape
            samples = np.random.default_rng(1).integers(-128, 128, (1, *shape)).astype(np.int8)
            counted.append(Device.of(graph, target, samples, layout).layers[0] / pixels)
            terms.append([layout.pack(levels).listed if layout else levels.size, rows, taps])
            if layout is None and kind == "conv2d" and "dsp" not in load_target(target).features:
                terms[-1].append(levels.size / _pixels_together(graph))
        relative = np.array(terms, float) / np.array(counted)[:, np.newaxis]
        costs, *_ = np.linalg.lstsq(relative, np.ones(len(relative)), rcond=None)
        error = np.abs(relative @ costs - 1).max()
        name = (
            f"gaps of {layout.bits} bits: tap listed, row, input" if layout else "dense: weight, row, input"
        )
        print(f"{target}, {kind}: {name:38} {np.round(costs, 2)}, error {100 * error:.1f} %", flush=True)


def _pixels_together(graph: Graph) -> float:
    """Output pixels for which the portable convolution unpacks a row of weights once."""
    node = graph.nodes[0]
    call = choose_kernel(node.op, graph.input_shapes(node), Core(frozenset()))  # type: ignore[arg-type]
    width = graph.tensors["y"].shape[2]
    return width / -(-width // call.parameters["block"])


def print_code_bytes(target: str, kind: str) -> None:
    """Machine code of the functions of each gaps kernel."""
    levels = random_levels(16, 72, 0.3)
    graph = conv_graph(levels, (6, 6), 3) if kind == "conv2d" else linear_graph(levels)
    for layout in GAP_FORMATS:
        with forced_format(layout), tempfile.TemporaryDirectory() as directory:
            write_library(generate(graph, load_target(target), EmitOptions("net")), Path(directory))
            command = ["arm-none-eabi-gcc", *load_target(target).compiler_flags, "-O2", "-c", "dq_kernels.c"]
            subprocess.run(command, cwd=directory, check=True)
            symbols = ["arm-none-eabi-nm", "-S", "dq_kernels.o"]
            printed = subprocess.run(
                symbols, cwd=directory, check=True, capture_output=True, text=True
            ).stdout
        size = sum(int(found, 16) for found in re.findall(r"^\w+ (\w+) \w \w*_gap\w*$", printed, re.M))
        print(f"{target}, {kind}: gaps of {layout.bits} bits: {size} bytes of code", flush=True)


def main() -> int:
    """Print the tables; exit status 2 without data."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="mlp_mnist,resnet8ft")
    parser.add_argument("--targets", default="cortex-m4,cortex-m3")
    parser.add_argument("--lambdas", default=_LAMBDAS)
    parser.add_argument("--layers", type=float, default=1.0, help="lambda whose layers are printed")
    parser.add_argument("--optimize", default="balanced", choices=OPTIMIZE)
    parser.add_argument("--costs", action="store_true", help="measure the costs of the kernels instead")
    arguments = parser.parse_args()
    if arguments.costs:
        for target in _CORES:
            for kind in _SHAPES:
                print_costs(target, kind)
                print_code_bytes(target, kind)
        return 0
    if data_directory() is None:
        print("DEPLOYQ_DATA is not set: nothing to measure", file=sys.stderr)
        return 2
    lambdas = [float(value) for value in arguments.lambdas.split(",")]
    for name in arguments.networks.split(","):
        print_network(name, arguments.targets.split(","), lambdas, arguments.layers, arguments.optimize)
    return 0


if __name__ == "__main__":
    sys.exit(main())

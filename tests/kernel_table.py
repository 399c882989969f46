"""Instructions of the generated kernels on the MLPerf Tiny networks, next to CMSIS-NN's int8 kernels.

    DEPLOYQ_DATA=... python -m tests.kernel_table --bits 2,8 --target cortex-m4
    DEPLOYQ_DATA=... python -m tests.kernel_table --networks resnet8 --bits 1,2,4,8 --markdown

Builds every network at every width as `deployq build` does (every layer at that width, quantized by the
quickest method: what a kernel costs hardly depends on the weights), measures it as `deployq bench` does, and
prints whole networks and layers, both without softmax. Figures of CMSIS-NN: tests/cmsis_nn.py.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deployq.bench import bench_directory
from deployq.codegen.kernels import OPTIMIZE
from deployq.config import METHODS
from deployq.pipeline import build_from_config
from deployq.report import render_listing
from deployq.report.bench import BenchReport, LayerCost
from deployq.targets import target_names
from tests.cmsis_nn import CORES, NETWORKS, PeerLayer, PeerNetwork
from tests.networks import VARIABLE, data_directory, mlperf_configuration

Rows = Sequence[tuple[str, ...]]
Printer = Callable[[tuple[str, ...], Rows], str]


@dataclass(frozen=True)
class Measurement:
    """A network at one width on a core; everything without softmax.

    Attributes:
        bits: of the weights.
        report: of `deployq bench`.
        packed_bytes: packed weights with all padding, without biases and multipliers.
    """

    bits: str
    report: BenchReport
    packed_bytes: int

    @property
    def layers(self) -> tuple[LayerCost, ...]:
        """The layers but softmax."""
        return tuple(layer for layer in self.report.layers if layer.op != "softmax")

    @property
    def instructions(self) -> int:
        """Of an inference without softmax, with what the entry point does besides the layers."""
        left_out = [layer for layer in self.report.layers if layer.op == "softmax"]
        return self.report.instructions - sum(layer.instructions for layer in left_out)


def main() -> int:
    """Print the tables; exit status 2 without the networks."""
    arguments = _arguments()
    if data_directory() is None:
        print(f"{VARIABLE} is not set: nothing to measure", file=sys.stderr)
        return 2
    measured: dict[str, list[Measurement]] = {}
    for network in arguments.networks.split(","):
        for bits in arguments.bits.split(","):
            print(f"{network} at {bits} for {arguments.target}", file=sys.stderr, flush=True)
            settings = {
                "method": arguments.method,
                "optimize": arguments.optimize,
                "input_rows": arguments.input_rows,
                "cycles": arguments.cycles,
            }
            measured.setdefault(network, []).append(measure(network, bits, arguments.target, **settings))
    printer = markdown if arguments.markdown else _listing
    print(_introduction([each.report for measurements in measured.values() for each in measurements]))
    print(speed(measured, arguments.target, printer))
    print(memory(measured, printer))
    for network, measurements in measured.items():
        print(f"{NETWORKS[network].title}: {network}\n")
        print(per_layer(NETWORKS[network], measurements, arguments.target, printer))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="ad01_autoencoder,resnet8,kws_dscnn,vww_mobilenetv1")
    parser.add_argument("--bits", default="2,8")
    parser.add_argument("--target", default="cortex-m4", choices=target_names())
    parser.add_argument("--method", default="msq", choices=METHODS)
    parser.add_argument("--optimize", default="balanced", choices=OPTIMIZE)
    parser.add_argument("--input-rows", action="store_true", help="no buffer holds all of the input")
    parser.add_argument("--cycles", action="store_true", help="also modelled Cortex-M4 cycles")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def measure(
    network: str,
    bits: str,
    target: str,
    *,
    method: str = "msq",
    optimize: str = "balanced",
    input_rows: bool = False,
    cycles: bool = False,
) -> Measurement:
    """Build a network into a temporary directory, verified on one sample, and measure it on two."""
    with tempfile.TemporaryDirectory() as temporary:
        config = replace(
            mlperf_configuration(network, bits, method),
            target=target,
            optimize=optimize,
            input_rows=input_rows,
            output=Path(temporary) / "out",
            host_samples=2,
            verify_samples=1,
        )
        build_from_config(config)
        tables = (config.output / "firmware" / "net_weights.c").read_text(encoding="ascii")
        return Measurement(
            bits, bench_directory(config.output, samples=2, cycles=cycles), packed_bytes(tables)
        )


def packed_bytes(tables: str) -> int:
    """Bytes of the packed weights in the text of a generated <name>_weights.c."""
    sizes = re.findall(r"^const u?int(\d+)_t \w+_weights\[(\d+)\]", tables, re.M)
    return sum(int(bits) // 8 * int(count) for bits, count in sizes)


def match_layers(peers: Sequence[PeerLayer], layers: Sequence[LayerCost]) -> list[PeerLayer | None]:
    """The other library's layer for each layer: the first unused one of the same operator and MACs."""
    unused = list(peers)
    found = []
    for layer in layers:
        peer = next((peer for peer in unused if (peer.op, peer.macs) == (layer.op, layer.macs)), None)
        found.append(peer)
        if peer is not None:
            unused.remove(peer)
    return found


def speed(measured: dict[str, list[Measurement]], target: str, printer: Printer) -> str:
    """One row per network and width: instructions."""
    columns = (
        *("network", "bits", "instructions", "/MAC", "CMSIS-NN int8", "times fewer"),
        *("fastest int8", "times fewer", "cycles*"),
    )
    rows = []
    for network, measurements in measured.items():
        peer = NETWORKS[network]
        theirs = _instructions(peer.layers, target)
        fastest = peer.best_instructions if target == "cortex-m4" else None
        for measurement in measurements:
            count = measurement.instructions
            rows.append(
                (
                    peer.title,
                    measurement.bits,
                    _count(count),
                    _rate(count, measurement.report.macs),
                    *(_count(theirs), _times(theirs, count)),
                    *(_count(fastest), _times(fastest, count)),
                    _count(_cycles(measurement)),
                )
            )
    return printer(*_without_empty(columns, rows))


def memory(measured: dict[str, list[Measurement]], printer: Printer) -> str:
    """One row per network and width: bytes."""
    columns = (
        *("network", "bits", "packed", "of int8's", "with tables", "of int8's"),
        *("code", "arena", "int8's arena", "stack"),
    )
    rows = []
    for network, measurements in measured.items():
        peer = NETWORKS[network]
        for measurement in measurements:
            report = measurement.report
            rows.append(
                (
                    peer.title,
                    measurement.bits,
                    f"{measurement.packed_bytes:,}",
                    f"{measurement.packed_bytes / peer.weights_bytes:.1%}",
                    f"{report.weights_bytes:,}",
                    f"{report.weights_bytes / (peer.weights_bytes + peer.table_bytes):.1%}",
                    f"{report.code_bytes:,}",
                    f"{report.arena_bytes:,}",
                    f"{peer.arena_bytes:,}",
                    f"{report.stack_bytes:,}",
                )
            )
    return printer(columns, rows)


def per_layer(peer: PeerNetwork, measurements: Sequence[Measurement], target: str, printer: Printer) -> str:
    """One row per layer, columns for every width."""
    columns = ["layer", "MACs", "CMSIS-NN int8", "/MAC"]
    layers = measurements[0].layers
    peers = match_layers(peer.layers, layers)
    rows = []
    for layer, other in zip(layers, peers, strict=True):
        theirs = None if other is None else _instructions((other,), target)
        name = other.name if other else layer.name
        rows.append([name, _count(layer.macs or None), _count(theirs), _rate(theirs, layer.macs)])
    for measurement in measurements:
        columns += [f"{measurement.bits} bits", "/MAC", "times fewer"]
        for row, layer, other in zip(rows, measurement.layers, peers, strict=True):
            theirs = None if other is None else _instructions((other,), target)
            row += [_count(layer.instructions), _rate(layer.instructions, layer.macs)]
            row.append(_times(theirs, layer.instructions))
    missing = set(peer.layers) - set(peers)
    note = f"\nonly in CMSIS-NN's network: {', '.join(sorted(layer.name for layer in missing))}\n"
    return printer(tuple(columns), [tuple(row) for row in rows]) + (note if missing else "")


def markdown(columns: tuple[str, ...], rows: Rows) -> str:
    """A table for a README."""
    lines = [columns, ("---", *("---:" for _ in columns[1:])), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _listing(columns: tuple[str, ...], rows: Rows) -> str:
    return render_listing(columns, rows, numbers=columns[1:])


def _introduction(reports: Sequence[BenchReport]) -> str:
    report = reports[0]
    machines = " or ".join(dict.fromkeys(str(each.machine) for each in reports))
    lines = [
        f"{report.target}, QEMU {machines}, {report.compiler}",
        f"flags: {' '.join(report.flags)}",
        "int8: see tests/cmsis_nn.py; weights with biases and multipliers; all without softmax but",
        '"fastest int8", the best of CMSIS-NN and TinyEngine in every layer',
    ]
    return "\n".join([*lines, f"cycles*: {report.cycle_model}\n" if report.cycle_model else ""])


def _without_empty(columns: tuple[str, ...], rows: Rows) -> tuple[tuple[str, ...], Rows]:
    """The table without the columns in which no row has anything."""
    kept = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    return tuple(columns[index] for index in kept), [tuple(row[index] for index in kept) for row in rows]


def _instructions(layers: Sequence[PeerLayer], target: str) -> int | None:
    if target not in CORES:
        return None
    return sum(layer.instructions[CORES.index(target)] for layer in layers)


def _cycles(measurement: Measurement) -> int | None:
    found = [layer.modelled_cycles for layer in measurement.layers if layer.modelled_cycles is not None]
    return sum(found) if found else None


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _rate(instructions: int | None, macs: int) -> str:
    return f"{instructions / macs:.2f}" if instructions is not None and macs else ""


def _times(theirs: int | None, ours: int) -> str:
    return "" if theirs is None else f"{theirs / ours:.2f}"


if __name__ == "__main__":
    sys.exit(main())

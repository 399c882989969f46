"""Accuracy and bit-exactness of the benchmark networks over widths and targets, as a table.

    DEPLOYQ_DATA=... python -m tests.matrix --bits 1,2,4,8 --targets all

Prints one line per network and width with the accuracy on the whole test part, and one per target
with the number of samples and mismatching bytes of ONNX Runtime, host C and QEMU.
"""

from __future__ import annotations

import argparse
import sys
import time

from deployq.config import METHODS
from deployq.targets import target_names
from tests.networks import NETWORKS, Quantized, configuration, data_directory


def main() -> int:
    """Run the matrix; exit status 1 if any byte differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--bits", default="1,2,4,8")
    parser.add_argument("--targets", default="", help='"all", "" for accuracy only, or names')
    parser.add_argument("--host-samples", type=int, default=1000)
    parser.add_argument("--qemu-samples", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="gpfq", choices=METHODS)
    arguments = parser.parse_args()
    if data_directory() is None:
        print("DEPLOYQ_DATA is not set: nothing to measure", file=sys.stderr)
        return 2
    names = (
        target_names() if arguments.targets == "all" else tuple(filter(None, arguments.targets.split(",")))
    )
    mismatches = 0
    for network in arguments.networks.split(","):
        for bits in arguments.bits.split(","):
            started = time.monotonic()
            quantized = Quantized.build(
                configuration(NETWORKS[network], bits, arguments.seed, method=arguments.method)
            )
            float_, low_bit = quantized.accuracy()
            print(
                f"{network} {bits}: float {float_:.2f} quantized {low_bit:.2f} loss {float_ - low_bit:.2f}"
                f" ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
            for target in names:
                mismatches += _verify(quantized, target, arguments)
    print(f"{mismatches} mismatching bytes")
    return int(mismatches > 0)


def _verify(quantized: Quantized, target: str, arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    verification = quantized.verify(
        target, host_samples=arguments.host_samples, qemu_samples=arguments.qemu_samples
    )
    outcomes = ", ".join(
        f"{name} {outcome.skipped or f'{outcome.samples} samples {outcome.mismatches} mismatches'}"
        for name, outcome in verification.outcomes.items()
    )
    emulation = verification.emulation
    count = (
        f", {emulation.instructions_per_inference} instructions on {emulation.machine}" if emulation else ""
    )
    print(f"  {target}: {outcomes}{count} ({time.monotonic() - started:.0f} s)", flush=True)
    return verification.mismatches


if __name__ == "__main__":
    sys.exit(main())

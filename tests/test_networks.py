"""The benchmark networks: accuracy on the whole test part, exactness on every target.

A few samples suffice here; `python -m tests.matrix --targets all` runs 1,000 on the host and 64 in QEMU.
"""

from __future__ import annotations

from functools import cache

import pytest

from deployq.targets import target_names
from tests.networks import NETWORKS, VARIABLE, Quantized, configuration, data_directory
from tests.tools import needs_tools

pytestmark = [
    pytest.mark.skipif(data_directory() is None, reason=f"{VARIABLE} is not set"),
    pytest.mark.data,
    pytest.mark.slow,
]

#: Most points of top-1 accuracy a network may lose at a width.
LARGEST_LOSS = {
    ("mlp_mnist", "1"): 1.3,
    ("mlp_mnist", "2"): 0.5,
    ("mlp_mnist", "4"): 0.3,
    ("mlp_mnist", "8"): 0.3,
    ("cnn_cifar10", "2"): 1.5,
    ("resnet8ft", "2"): 8.0,
    ("resnet8ft", "4"): 1.0,
}

#: The same with the method "auto", with a margin of about a point for another machine's rounding.
LARGEST_LOSS_OF_AUTO = {
    ("mlp_mnist", "1"): 0.8,
    ("resnet8ft", "2"): 4.0,
}

WIDTHS = ("1", "2", "4", "8")


@cache
def quantized(network: str, bits: str, samples: int = 1024) -> Quantized:
    """A network quantized once for all tests."""
    return Quantized.build(configuration(NETWORKS[network], bits, samples=samples))


@pytest.mark.parametrize(("network", "bits"), LARGEST_LOSS, ids=str)
def test_accuracy(network: str, bits: str) -> None:
    float_, low_bit = quantized(network, bits).accuracy()
    assert float_ - low_bit <= LARGEST_LOSS[network, bits]


@pytest.mark.parametrize(("network", "bits"), LARGEST_LOSS_OF_AUTO, ids=str)
def test_accuracy_of_auto(network: str, bits: str) -> None:
    tuned = Quantized.build(configuration(NETWORKS[network], bits, method="auto"))
    assert any("tuning" in note for note in tuned.network.notes)
    float_, low_bit = tuned.accuracy()
    assert float_ - low_bit <= LARGEST_LOSS_OF_AUTO[network, bits]


@needs_tools("gcc", "arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.qemu
@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize(("network", "bits"), [(name, bits) for name in NETWORKS for bits in WIDTHS], ids=str)
def test_all_executors_agree(network: str, bits: str, target: str) -> None:
    # The weights need not be good here, so few calibration samples do.
    verification = quantized(network, bits, 64).verify(target, host_samples=8, qemu_samples=1)
    assert verification.mismatches == 0
    assert all(not outcome.skipped for name, outcome in verification.outcomes.items() if name != "qemu")

"""The table of kernels against CMSIS-NN: its data, how layers are matched, and one network of it."""

from __future__ import annotations

import pytest

from deployq.report.bench import LayerCost
from tests.cmsis_nn import NETWORKS
from tests.kernel_table import markdown, match_layers, measure, memory, per_layer, speed
from tests.networks import data_directory
from tests.tools import needs_tools

#: Whole networks as measured, Cortex-M4, softmax included, and softmax alone.
_TOTALS = {
    "ad01_autoencoder": (570_164, 0),
    "resnet8": (28_502_120, 5_373),
    "kws_dscnn": (7_226_065, 6_397),
    "vww_mobilenetv1": (22_601_899, 1_273),
}
_MACS = {
    "ad01_autoencoder": 264_192,
    "resnet8": 12_501_632,
    "kws_dscnn": 2_656_768,
    "vww_mobilenetv1": 7_489_664,
}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_layers_of_cmsis_nn_add_up(network: str) -> None:
    layers = NETWORKS[network].layers
    total, softmax = _TOTALS[network]
    assert sum(layer.instructions[0] for layer in layers) + softmax == total
    assert sum(layer.macs for layer in layers) == _MACS[network]


def test_layers_are_matched_in_order() -> None:
    peers = NETWORKS["resnet8"].layers
    ours = [
        LayerCost("a", "conv2d", "f", 1_179_648, 1, None, None, None),
        LayerCost("b", "transpose", "f", 0, 1, None, None, None),
        LayerCost("c", "conv2d", "f", 1_179_648, 1, None, None, None),
        LayerCost("d", "add", "f", 0, 1, None, None, None),
        LayerCost("e", "conv2d", "f", 1_179_648, 1, None, None, None),
    ]
    matched = match_layers(peers, ours)
    assert [peer.name if peer else None for peer in matched] == [
        "s2_conv_a", None, "s3_conv_a", "s1_add", None
    ]  # fmt: skip


@pytest.mark.data
@pytest.mark.qemu
@pytest.mark.skipif(data_directory() is None, reason="DEPLOYQ_DATA is not set")
@needs_tools("gcc", "arm-none-eabi-gcc", "qemu-system-arm")
def test_the_autoencoder() -> None:
    measured = measure("ad01_autoencoder", "2", "cortex-m4")
    peer = NETWORKS["ad01_autoencoder"]
    rows = per_layer(peer, [measured], "cortex-m4", markdown).splitlines()
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == [
        layer.name for layer in peer.layers
    ]
    table = speed({"ad01_autoencoder": [measured]}, "cortex-m4", markdown)
    assert f"| AD | 2 | {measured.instructions:,} |" in table
    assert "cycles" not in table
    assert f" {measured.report.arena_bytes:,} | 768 |" in memory({"ad01_autoencoder": [measured]}, markdown)

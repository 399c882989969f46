"""Instructions of CMSIS-NN on the four MLPerf Tiny networks, to compare with.

Measured, not taken from a publication: CMSIS-NN commit 99f736a6 (2026-07-15), int8 (s8) kernels on the shapes
of the reference .tflite files and random data, one call per layer, without an interpreter and without copying
the input. arm-none-eabi-gcc 12.2.1 (Debian 15:12.2.rel1-1), every instruction counted by a plugin of
qemu-system-arm 7.2.22.

- cortex-m4: -mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 -O2 with
  CMSIS_NN_USE_REQUANTIZE_INLINE_ASSEMBLY, the fastest build that rounds like TensorFlow Lite
- cortex-m3: -mcpu=cortex-m3 -mthumb -O3
- cortex-m55: -mcpu=cortex-m55 -mthumb -mfloat-abi=hard -O3, Helium kernels
"""

from __future__ import annotations

from dataclasses import dataclass

#: Cores with figures, in the order of `PeerLayer.instructions`.
CORES = ("cortex-m4", "cortex-m3", "cortex-m55")


@dataclass(frozen=True)
class PeerLayer:
    """A layer: name, operator as deployq calls it, multiply-accumulates, instructions per core of `CORES`."""

    name: str
    op: str
    macs: int
    instructions: tuple[int, int, int]


@dataclass(frozen=True)
class PeerNetwork:
    """A network.

    Attributes:
        title: what MLPerf Tiny calls it.
        layers: in the order of execution, without softmax.
        weights_bytes: int8 weights.
        table_bytes: biases, multipliers and shifts.
        arena_bytes: largest sum of live activations and scratch, Cortex-M4.
        best_instructions: of the fastest bit-exact int8 kernel per layer, CMSIS-NN's or TinyEngine's
            (commit 47bb283), Cortex-M4, with softmax.
    """

    title: str
    layers: tuple[PeerLayer, ...]
    weights_bytes: int
    table_bytes: int
    arena_bytes: int
    best_instructions: int


def _layers(table: str) -> tuple[PeerLayer, ...]:
    """Layers of the lines `name op macs m4 m3 m55`."""
    found = []
    for line in table.strip().splitlines():
        name, op, *numbers = line.split()
        macs, m4, m3, m55 = (int(number.replace(",", "")) for number in numbers)
        found.append(PeerLayer(name, op, macs, (m4, m3, m55)))
    return tuple(found)


_AD = """
fc1 linear 81,920 159,362 281,360 40,162
fc2 linear 16,384 36,482 60,172 9,442
fc3 linear 16,384 36,482 60,172 9,442
fc4 linear 16,384 36,482 60,172 9,442
fc5 linear 1,024 2,402 4,572 742
fc6 linear 1,024 7,618 8,336 2,722
fc7 linear 16,384 36,482 60,172 9,442
fc8 linear 16,384 36,482 60,172 9,442
fc9 linear 16,384 36,482 60,172 9,442
fc10 linear 81,920 181,890 297,092 46,562
"""

_IC = """
conv1 conv2d 442,368 1,991,874 2,409,169 599,471
s1_conv_a conv2d 2,359,296 5,374,931 7,866,090 914,859
s1_conv_b conv2d 2,359,296 5,374,931 7,866,090 914,859
s1_add add 0 901,204 1,376,341 225,372
s2_conv_a conv2d 1,179,648 2,462,457 3,610,509 387,869
s2_conv_b conv2d 2,359,296 4,485,679 6,771,390 596,959
s2_short conv2d 131,072 516,601 669,561 141,528
s2_add add 0 450,644 688,213 112,732
s3_conv_a conv2d 1,179,648 2,160,124 3,252,226 279,606
s3_conv_b conv2d 2,359,296 4,126,871 6,300,726 485,391
s3_short conv2d 131,072 397,881 543,224 81,416
s3_add add 0 225,364 344,149 56,412
avgpool averagepool2d 0 26,416 49,569 5,019
fc linear 640 1,770 2,846 720
"""

_KWS_BLOCK = """
dw{0} conv2d 72,000 503,196 674,333 166,878
pw{0} conv2d 512,000 1,023,109 1,591,873 202,880
"""

_KWS = f"""
conv1 conv2d 320,000 1,061,601 1,362,469 289,046
{"".join(_KWS_BLOCK.strip().format(index) + chr(10) for index in range(1, 5)).strip()}
avgpool averagepool2d 0 50,749 107,560 9,359
fc linear 768 2,098 3,149 672
"""

_VWW_BLOCK = """
dw{0} conv2d 41,472 277,897 372,288 96,106
pw{0} conv2d 589,824 1,052,869 1,696,587 166,434
"""

_VWW = f"""
conv1 conv2d 497,664 2,908,033 3,413,651 990,657
dw1 conv2d 165,888 1,338,031 1,796,184 863,817
pw1 conv2d 294,912 1,742,997 2,088,347 641,832
dw2 conv2d 82,944 634,383 859,476 288,130
pw2 conv2d 294,912 1,062,757 1,413,972 314,952
dw3 conv2d 165,888 1,219,027 1,655,040 446,269
pw3 conv2d 589,824 1,483,621 2,154,226 365,640
dw4 conv2d 41,472 304,991 414,096 111,875
pw4 conv2d 294,912 748,293 1,083,134 181,392
dw5 conv2d 82,944 586,951 794,376 190,737
pw5 conv2d 589,824 1,173,765 1,826,442 232,080
dw6 conv2d 20,736 146,841 198,768 47,911
pw6 conv2d 294,912 608,965 934,610 115,746
{"".join(_VWW_BLOCK.strip().format(index) + chr(10) for index in range(7, 12)).strip()}
dw12 conv2d 10,368 69,518 93,165 25,846
pw12 conv2d 294,912 622,277 962,113 91,038
dw13 conv2d 20,736 125,998 165,069 48,780
pw13 conv2d 589,824 1,151,685 1,830,487 146,334
avgpool averagepool2d 0 17,485 44,283 5,527
fc linear 512 1,178 3,275 632
"""

#: By the name of the model file.
NETWORKS = {
    "ad01_autoencoder": PeerNetwork("AD", _layers(_AD), 264_192, 6_688, 768, 570_164),
    "resnet8": PeerNetwork("IC", _layers(_IC), 77_360, 4_072, 51_456, 28_502_120),
    "kws_dscnn": PeerNetwork("KWS", _layers(_KWS), 22_016, 6_960, 16_256, 7_226_065),
    "vww_mobilenetv1": PeerNetwork("VWW", _layers(_VWW), 208_112, 32_840, 56_320, 21_199_302),
}

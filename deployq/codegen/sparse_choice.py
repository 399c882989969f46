"""Where sparse weights are used: where they take less flash and not more instructions.

Instructions are estimated from costs measured once under QEMU, for kernels compiled with -O2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deployq.alphabet import Alphabet
from deployq.codegen.packing.gaps import GAP_FORMATS, LONGEST_ROW, GapFormat, Levels, PackedGaps
from deployq.ops import KernelCall


@dataclass(frozen=True)
class DenseCost:
    """Instructions of the dense kernel of two bits per output pixel.

    A weight costs `weight`, a row `row`, and an input, which is copied, summed and expanded, `input`.
    """

    weight: float
    row: float
    input: float

    def of(self, rows: int, taps: int) -> float:
        """Instructions of a pixel."""
        return self.weight * rows * taps + self.row * rows + self.input * taps


@dataclass(frozen=True)
class CheaperCost:
    """Of two dense kernels of which the faster one is taken."""

    first: DenseCost
    second: DenseCost

    def of(self, rows: int, taps: int) -> float:
        """Instructions of a pixel."""
        return min(self.first.of(rows, taps), self.second.of(rows, taps))


@dataclass(frozen=True)
class GapCost:
    """Instructions of a gaps kernel per output pixel: per tap listed, per row, and per input copied."""

    listed: float
    row: float
    input: float = 0.0

    def of(self, rows: int, taps: int, listed: int) -> float:
        """Instructions of a pixel."""
        return self.listed * listed + self.row * rows + self.input * taps


@dataclass(frozen=True)
class LayerCosts:
    """A kind of layer on a core: its dense kernel, and its gaps kernels by the bits of a gap."""

    dense: DenseCost | CheaperCost
    gaps: Mapping[int, GapCost]


#: Costs of each kind of layer, measured by: python -m tests.sparsity --costs
#: In linear layers Cortex-M7, M33 and M55 are within 5 % of the M4; their convolutions were not measured.
CORTEX_M4 = {
    "linear": LayerCosts(
        DenseCost(0.65, 7.0, 2.5), {4: GapCost(4.37, 90.7, 0.1), 8: GapCost(4.74, 83.6, 0.0)}
    ),
    "conv2d": LayerCosts(
        DenseCost(0.47, 10.3, 1.4), {4: GapCost(3.68, 76.3, 1.3), 8: GapCost(4.45, 74.2, 0.9)}
    ),
}
CORTEX_M3 = {
    "linear": LayerCosts(
        DenseCost(3.99, 60.3, 4.2), {4: GapCost(4.38, 94.7, 0.1), 8: GapCost(4.74, 89.5, 0.0)}
    ),
    "conv2d": LayerCosts(
        DenseCost(2.47, 43.3, 5.8), {4: GapCost(3.70, 56.5, 1.6), 8: GapCost(4.46, 55.5, 1.2)}
    ),
}
CORTEX_M0PLUS = {
    "linear": LayerCosts(
        DenseCost(6.99, 131.2, 6.3), {4: GapCost(5.38, 180.0, 0.1), 8: GapCost(4.73, 150.0, 0.1)}
    ),
    "conv2d": LayerCosts(
        DenseCost(5.47, 107.5, 11.4), {4: GapCost(5.22, 130.5, 5.6), 8: GapCost(5.96, 111.8, 5.1)}
    ),
}

#: Cores whose dense kernels are those of `kernels/tables.py`, and of `kernels/linear_tables.py` or
#: `kernels/linear_halfwords.py`, whichever is faster. Their convolutions cost at least this much: a pixel
#: is cheapest at 64 inputs and 64 outputs, at 576 inputs a weight costs a quarter more. Linear layers are
#: within 5 % of the estimate.
ARMV7M = {
    "linear": LayerCosts(
        CheaperCost(DenseCost(1.19, 32.0, 4.4), DenseCost(0.83, 15.0, 24.7)), CORTEX_M3["linear"].gaps
    ),
    "conv2d": LayerCosts(DenseCost(0.72, 15.0, 4.0), CORTEX_M3["conv2d"].gaps),
}
ARMV6M = {
    "linear": LayerCosts(
        CheaperCost(DenseCost(2.41, 63.2, 6.4), DenseCost(1.13, 41.5, 30.4)), CORTEX_M0PLUS["linear"].gaps
    ),
    "conv2d": LayerCosts(DenseCost(1.00, 33.0, 3.0), CORTEX_M0PLUS["conv2d"].gaps),
}

#: Machine code of each gaps kernel in bytes, on the core on which it is largest.
CODE_BYTES = {
    "dq_linear_gaps4_a8": 420,
    "dq_linear_gaps8_a8": 300,
    "dq_conv2d_gaps4_a8": 1260,
    "dq_conv2d_gaps8_a8": 1140,
}

#: The estimates are within two per cent of what was measured, those of the dense kernels on the M4
#: within nine. Those of the portable one leave out that it unpacks each row of weights once per block of
#: pixels.
_MARGIN = 0.97


def cores(features: frozenset[str], kind: str) -> tuple[LayerCosts, ...]:
    """Costs on the cores that a target of these features may be; portable kernels run on two kinds."""
    for feature, costs in (("dsp", CORTEX_M4), ("armv7m", ARMV7M), ("armv6m", ARMV6M)):
        if feature in features:
            return (costs[kind],)
    return (CORTEX_M3[kind], CORTEX_M0PLUS[kind])


def choose_gaps(
    levels: Levels,
    letters: Alphabet,
    dense_bytes: int,
    features: frozenset[str],
    kind: str,
    flash_only: bool = False,
) -> PackedGaps | None:
    """The weights of a layer in the gaps format, None where the dense one is better.

    Used where it takes fewer bytes and the estimate of the instructions is lower on every core of
    these features. A layer without any weight stays dense: it stands for one that is not solved yet
    (`deployq.allocation`).

    Args:
        levels: (rows, taps) in the order of the activations.
        letters: alphabet of the levels.
        dense_bytes: of the weights in the dense format.
        features: of the target.
        kind: "linear" or "conv2d" (not depthwise).
        flash_only: instructions do not count.
    """
    weights = int(np.count_nonzero(levels))
    if letters.values.tolist() != [-1, 0, 1] or weights == 0 or levels.shape[1] > LONGEST_ROW:
        return None
    rivals = Rivals(len(levels), levels.shape[1], dense_bytes, features, kind, flash_only)
    # Packing takes time; without gaps that are too wide, a list is as long as there are weights.
    possible = [layout for layout in GAP_FORMATS if rivals.lose(layout, layout.list_bytes(weights), weights)]
    packings = [layout.pack(levels) for layout in possible]
    paying = [p for p in packings if rivals.lose(p.layout, len(p.data), p.listed)]
    return min(paying, key=lambda packing: len(packing.data), default=None)


@dataclass(frozen=True)
class Rivals:
    """The dense kernels of a layer of (rows, taps), on the cores of these features; see `choose_gaps`."""

    rows: int
    taps: int
    dense_bytes: int
    features: frozenset[str]
    kind: str
    flash_only: bool = False

    def lose(self, layout: GapFormat, gap_bytes: int, listed: int) -> bool:
        """Whether lists of so many bytes and taps save flash and cost no instructions, if those count."""
        bits = layout.bits
        if self.flash_only or gap_bytes >= self.dense_bytes:
            return gap_bytes < self.dense_bytes
        return all(
            core.gaps[bits].of(self.rows, self.taps, listed) <= _MARGIN * core.dense.of(self.rows, self.taps)
            for core in cores(self.features, self.kind)
        )


def pay_for_code(dense: Sequence[KernelCall], chosen: Sequence[KernelCall]) -> tuple[KernelCall, ...]:
    """The chosen calls of a network, dense again where a gaps kernel saves less than its own code.

    So a library never grows by its sparse weights; that the dense kernel may be gone counts for nothing.

    Args:
        dense: calls with dense weights.
        chosen: the same calls, some with sparse weights.
    """
    saved: dict[str, int] = {}
    for before, after in zip(dense, chosen, strict=True):
        if after.function in CODE_BYTES:
            difference = before.tables["weights"].nbytes - after.tables["weights"].nbytes
            saved[after.function] = saved.get(after.function, 0) + difference
    return tuple(
        before if saved.get(after.function, 0) <= CODE_BYTES.get(after.function, -1) else after
        for before, after in zip(dense, chosen, strict=True)
    )

"""Instructions of the fully connected kernels for cores without DSP, so that the faster one can be chosen.

Loops in assembly are counted from their text; the rest are costs measured under QEMU for kernels compiled
by gcc with -O2. On 22 shapes at every width the estimates of tables were within 3 per cent of what was
measured, those of halfwords within 16 and those of the portable kernel within 25.
"""

from __future__ import annotations

from dataclasses import dataclass

from deployq.codegen.kernels.core import Core
from deployq.codegen.packing.plane_chunks import PlaneChunkFormat


@dataclass(frozen=True)
class TableCost:
    """Per table that is built, per chunk of tables, per output, and once."""

    table: float
    chunk: float
    output: float
    layer: float


@dataclass(frozen=True)
class HalfwordCost:
    """Per chunk of four pairs of channels, input and chunk of a single pair, output, input, and once."""

    quad_chunk: float
    pair_input: float
    pair_chunk: float
    output: float
    input: float
    layer: float


#: Of the kernel of long multiplications: per input of four channels, per four channels, and per input.
_LONG_QUAD_INPUT, _LONG_QUAD, _LONG_INPUT = 6.6, 180.0, 4.0


@dataclass(frozen=True)
class PortableCost:
    """Per weight, output, and input."""

    weight: float
    output: float
    input: float


@dataclass(frozen=True)
class LinearCosts:
    """What the kernels cost on a core; portable ones with codes of a byte, and with narrower ones."""

    tables: TableCost
    halfwords: HalfwordCost
    portable_bytes: PortableCost
    portable_codes: PortableCost


ARMV6M = LinearCosts(
    TableCost(229.0, 57.0, 41.5, 318.0),
    HalfwordCost(194.0, 6.8, 176.0, 61.0, 4.7, 316.0),
    PortableCost(6.0, 124.0, 6.0),
    PortableCost(10.4, 190.0, 5.5),
)
ARMV7M = LinearCosts(
    TableCost(186.0, 45.0, 15.0, 150.0),
    HalfwordCost(99.0, 4.8, 95.0, 25.0, 3.2, 176.0),
    PortableCost(4.0, 64.0, 4.0),
    PortableCost(5.7, 87.0, 3.5),
)


def costs(core: Core) -> LinearCosts:
    """Those of a core without DSP."""
    return ARMV7M if "armv7m" in core.features else ARMV6M


def tables_cost(core: Core, layout: PlaneChunkFormat, inputs: int, outputs: int, channels: int) -> float:
    """Instructions of the table kernel.

    Args:
        core: without DSP.
        layout: of the weights.
        inputs: of the layer.
        outputs: of the layer.
        channels: of a slice, for which tables are built.
    """
    cost = costs(core).tables
    whole, single = layout.chunks(inputs)
    rows = layout.padded(outputs)
    slices = -(-rows // channels)
    built = slices * (cost.table * (whole * layout.tables + single) + cost.chunk * (whole + single))
    looked_up = whole * _look_up(core, layout, layout.tables) + single * _look_up(core, layout, 1)
    return built + rows * looked_up + cost.output * outputs + cost.layer


def _look_up(core: Core, layout: PlaneChunkFormat, tables: int) -> float:
    """Instructions of a chunk per output channel: lookups, next planes, the sum, and a part of the loop."""
    lookups, turn = tables * layout.bits, layout.channels
    if "armv7m" in core.features:
        return 3 * lookups + 2 + 2 / turn
    return 4 * lookups + layout.bits + 1 + 4 / turn


def halfwords_cost(core: Core, inputs: int, outputs: int, word_inputs: int, chunk: int) -> float:
    """Instructions of the kernel that multiplies an input by two channels.

    Args:
        core: without DSP.
        inputs: of the layer.
        outputs: of the layer.
        word_inputs: inputs whose codes share a word.
        chunk: inputs whose sums fit a half.
    """
    cost = costs(core).halfwords
    words, chunks = -(-inputs // word_inputs), -(-inputs // chunk)
    quads, rest = divmod(outputs, 8)
    quads, pairs = (quads + 1, 0) if rest > 6 else (quads, -(-rest // 2))
    word = 3 + 9 * word_inputs if "armv7m" in core.features else 7 + 18 * word_inputs
    in_quads = quads * (words * word + chunks * cost.quad_chunk)
    in_pairs = pairs * (words * word_inputs * cost.pair_input + chunks * cost.pair_chunk)
    return in_quads + in_pairs + outputs * cost.output + inputs * cost.input + cost.layer


def long_cost(inputs: int, outputs: int) -> float:
    """Instructions of the kernel of long multiplications, which is for Armv7-M alone."""
    return -(-outputs // 4) * (_LONG_QUAD_INPUT * inputs + _LONG_QUAD) + _LONG_INPUT * inputs


def portable_cost(core: Core, bits: int, inputs: int, outputs: int) -> float:
    """Instructions of the portable kernel."""
    cost = costs(core).portable_bytes if bits == 8 else costs(core).portable_codes
    return cost.weight * inputs * outputs + cost.output * outputs + cost.input * inputs

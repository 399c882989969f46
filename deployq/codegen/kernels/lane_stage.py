"""The output stage of sums of few bits, for cores without long multiplication."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployq.arithmetic import (
    INT8_MAX,
    INT8_MIN,
    Requantization,
    accumulator_extremes,
    signed_bits,
    sum_requantization,
)
from deployq.codegen.kernels.weighted import stage_parameters
from deployq.ops.accumulate import Accumulation
from deployq.ops.base import Array

#: Bits of a lane, and of sums of odd levels: twice a lane, plus one where the sum of the inputs is odd.
_LANE_BITS, _WIDE_BITS = 16, 17


@dataclass(frozen=True)
class SumStage:
    """Members of `dq_plane_stage_params`, tables in the form of `sum_requantization`.

    Attributes:
        parameters: scalars.
        tables: addends in place of biases, and negative multipliers.
        bits: of the sums.
    """

    parameters: dict[str, int]
    tables: dict[str, Array]
    bits: int

    @property
    def wide(self) -> bool:
        """Sums have one bit more than a lane."""
        return self.bits == _WIDE_BITS


def lane_stage(accumulation: Accumulation) -> SumStage | None:
    """The stage of a layer whose sums fit lanes, or twice a lane where levels are odd; else None."""
    return sum_stage(accumulation, _LANE_BITS if accumulation.weights.alphabet.step == 1 else _WIDE_BITS)


def sum_stage(accumulation: Accumulation, most_bits: int) -> SumStage | None:
    """The stage of a layer whose sums of level * x fit some bits.

    None where they do not, where the stage clamps to less than int8, or where a channel has no constants.
    """
    stage, levels, bias = accumulation.stage, accumulation.weights.levels, accumulation.folded_bias
    parameters = stage_parameters(accumulation)
    lowest, highest = sums = accumulator_extremes(levels, 0, np.zeros(len(bias), np.int64))
    width = max(signed_bits(int(lowest.min()), int(highest.max())), _LANE_BITS)
    full = (parameters["stage.low"], parameters["stage.high"]) == (INT8_MIN, INT8_MAX)
    if stage.per_channel_clamp or not full or width > most_bits or stage.shift + width >= 32:
        return None
    multiplier = np.broadcast_to(stage.multiplier, bias.shape).astype(np.int64)
    exact = Requantization(multiplier, stage.shift)
    found = sum_requantization(sums, width, bias, exact, stage.zero_point)
    if found is None:
        return None
    tables = {"bias": found.addend.astype(np.int32), "stage.multiplier": -found.multiplier.astype(np.int32)}
    return SumStage(
        {f"out.{name}": value for name, value in (parameters | {"plain": 1, "split": width}).items()},
        {f"out.{name}": values for name, values in tables.items()},
        width,
    )

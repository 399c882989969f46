"""From ticks and spins, as the emulated firmware counts them, to instructions.

`templates/harness/qemu/counter.h` explains the two numbers:

    instructions = ticks * instructions_per_tick - 4 * spins - overhead
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from deployq.errors import VerificationError

_INSTRUCTIONS_PER_SPIN = 4

#: Clock rates are round numbers of MHz, so the rate per tick has a small denominator.
_LARGEST_DENOMINATOR = 32


@dataclass(frozen=True)
class Interval:
    """Sum of one or more measured intervals."""

    ticks: int
    spins: int


@dataclass(frozen=True)
class Calibration:
    """Rate of the tick counter, and what one measurement itself costs, in instructions."""

    instructions_per_tick: Fraction
    overhead: Fraction

    def instructions(self, total: Interval, count: int, parts: int = 1) -> int:
        """Mean instructions of `count` measurements that sum up to `total`; exact to about 4.

        Args:
            total: sum of all intervals.
            count: measurements.
            parts: intervals of a measurement.
        """
        return max(0, round(self.exact(total) / count - parts * self.overhead))

    def exact(self, interval: Interval) -> Fraction:
        """Instructions of an interval, its overhead included."""
        return interval.ticks * self.instructions_per_tick - _INSTRUCTIONS_PER_SPIN * interval.spins

    def with_overhead_of(self, empty: Interval) -> Calibration:
        """The same counter with another overhead: that of an empty measurement."""
        return Calibration(self.instructions_per_tick, self.exact(empty))


def calibrate(known: Sequence[tuple[int, Interval]]) -> Calibration:
    """Fit the counter to intervals of known length and validate the fit.

    Args:
        known: pairs (instructions, interval): first one that is nearly empty, then two long ones of
            different length, from which the rate is computed, then at least one that was not used
            for the fit.

    Raises:
        VerificationError: too few intervals, or the fit is off by more than a tick anywhere.
    """
    if len(known) < 4:
        raise VerificationError("the firmware did not calibrate its instruction counter")
    (few, empty), (shorter, first), (longer, second) = known[:3]
    ticks = second.ticks - first.ticks
    if ticks <= 0:
        raise VerificationError("the emulated SysTick does not count")
    spins = second.spins - first.spins
    measured = Fraction(longer - shorter + _INSTRUCTIONS_PER_SPIN * spins, ticks)
    # Each stamp may be late by one turn of the spin loop; within that, prefer the round number.
    nearest = measured.limit_denominator(_LARGEST_DENOMINATOR)
    uncertainty = Fraction(2 * _INSTRUCTIONS_PER_SPIN, ticks)
    rate = nearest if abs(nearest - measured) <= uncertainty else measured
    overhead = Calibration(rate, Fraction(0)).exact(empty) - few
    calibration = Calibration(rate, overhead)
    for instructions, interval in known:
        error = calibration.exact(interval) - overhead - instructions
        if abs(error) > rate:
            raise VerificationError(
                "the instruction counter of the emulator is not linear",
                why=f"{instructions} instructions were counted as {float(instructions + error):.1f}",
                hint="qemu-system-arm 7.2 is known to count exactly with -icount shift=0",
            )
    return calibration

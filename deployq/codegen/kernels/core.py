"""What kernels are chosen for: a core, and what counts where speed, RAM and flash conflict."""

from __future__ import annotations

from dataclasses import dataclass

#: What `--optimize` may name.
OPTIMIZE = ("balanced", "speed", "ram", "flash")

#: Flash of codes in the fields of a faster kernel, relative to that of the codes themselves, at most: 7 bits
#: in fields of 8 take 1.14, 3 and 6 bits in fields of 4 and 8 take 1.33, 5 bits 1.6. Helium has no kernel
#: for other widths than those of fields, and without them is five times slower.
_FIELD_OVERHEAD, _FIELD_OVERHEAD_OF_HELIUM, _FIELD_OVERHEAD_FOR_SPEED = 1.15, 1.34, 1.61

#: Widths that fill words.
_FIELD_BITS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Core:
    """A core and a preference.

    Attributes:
        features: instruction set extensions kernels may use, e.g. {"dsp"}.
        optimize: "balanced"; "speed": codes may be stored in wider fields, and more is expanded in
            advance; "ram": a quarter of the usual scratch memory, where `codegen.optimize` finds
            that this makes the arena smaller; "flash": the kernels of
            the smallest code, and sparse weights as lists wherever that is smaller.
    """

    features: frozenset[str]
    optimize: str = "balanced"

    @property
    def field_overhead(self) -> float:
        """How much flash the fields of a faster kernel may take, relative to the codes' own."""
        if self.optimize == "speed":
            return _FIELD_OVERHEAD_FOR_SPEED
        return _FIELD_OVERHEAD_OF_HELIUM if "mve" in self.features else _FIELD_OVERHEAD

    def field_bits(self, bits: int) -> int | None:
        """Width of the fields that hold codes: 1, 2, 4 or 8; None where that takes too much flash."""
        wide = next(width for width in _FIELD_BITS if width >= bits)
        return wide if wide <= self.field_overhead * bits else None

    def scratch(self, usual: int) -> int:
        """Bytes of scratch memory a kernel may take whose usual limit is given."""
        return usual // 4 if self.optimize == "ram" else usual

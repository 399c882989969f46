"""What kernels are chosen for: a core, and what counts where speed, RAM and flash conflict."""

from __future__ import annotations

from dataclasses import dataclass

#: What `--optimize` may name.
OPTIMIZE = ("balanced", "speed", "ram", "flash")

#: Flash of codes in the fields of a faster kernel, relative to that of the codes themselves: 3 and 6 bits
#: in fields of 4 and 8 take 1.33, 7 bits in fields of 8 take 1.14.
_FIELD_OVERHEAD = {"speed": 1.34}


@dataclass(frozen=True)
class Core:
    """A core and a preference.

    Attributes:
        features: instruction set extensions kernels may use, e.g. {"dsp"}.
        optimize: "balanced"; "speed": codes may be stored in wider fields, and more is expanded in
            advance; "ram": a quarter of the usual scratch memory; "flash": the kernels of
            the smallest code, and sparse weights as lists wherever that is smaller.
    """

    features: frozenset[str]
    optimize: str = "balanced"

    @property
    def field_overhead(self) -> float:
        """How much flash the fields of a faster kernel may take, relative to the codes' own."""
        return _FIELD_OVERHEAD.get(self.optimize, 1.15)

    def scratch(self, usual: int) -> int:
        """Bytes of scratch memory a kernel may take whose usual limit is given."""
        return usual // 4 if self.optimize == "ram" else usual

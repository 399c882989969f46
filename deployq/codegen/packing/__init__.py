"""The flash formats of low-bit weights, one file each, and the only packers.

A format says where each code sits; packing, unpacking, the comment in the generated C and the constants
its kernels use all follow from that.

- `streams`: a stream of codes per output channel (dense), or words of two taps at equal places (lanes).
- `fields`: words that hold four output channels, for SMLAD.
- `woven`: the same for widths that do not fill a word: spare bits of fields make up further words.
- `vectors`: 16-byte vectors, for Helium.
- `planes`: bit planes of eight inputs a byte, for lookup tables.
- `plane_chunks`: bit planes of eight inputs a byte, all output channels of a few inputs together.
- `channel_pairs`: two output channels side by side, for one 32-bit multiplication.
- `channel_quads`: four output channels in a word, for long multiplications.
- `gaps`: lists of the taps that are not zero.
"""

from __future__ import annotations

from typing import Protocol

#: The order of the taps of filters that are stored transposed.
BY_COLUMNS = "Taps go down the columns of a filter."


class _Format(Protocol):
    @property
    def name(self) -> str: ...

    def comment(self) -> str: ...


def description(layout: _Format, order: str = "") -> str:
    """What the generated C says of a format, and of what stands in another order than it says."""
    return f"{layout.name}: {layout.comment()}" + (f" {order}" if order else "")

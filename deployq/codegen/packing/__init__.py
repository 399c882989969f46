"""The flash formats of low-bit weights, one file each, and the only packers.

A format says where each code sits; packing, unpacking, the comment in the generated C and the constants
its kernels use all follow from that.

- `streams`: a stream of codes per output channel (dense), or words of two taps at equal places (lanes).
- `fields`: words that hold four output channels, for SMLAD.
- `vectors`: 16-byte vectors, for Helium.
- `planes`: bit planes of eight inputs a byte, for lookup tables.
- `channel_pairs`: two output channels side by side, for one 32-bit multiplication.
- `gaps`: lists of the taps that are not zero.
"""

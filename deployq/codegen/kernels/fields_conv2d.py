"""Convolutions on cores with SMLAD whose weights hold four output channels a word.

A window of the input consists of runs of consecutive activations (a kernel row, or where dilation or
groups tear it apart, the channels of one tap). Two windows at a time are expanded to 16-bit operands,
run by run from the padded input rows, or, where runs are not whole words, from copies. The sums of the
activations come out of the expansion. A block function then computes all channels of both pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deployq.codegen.kernels.core import Core
from deployq.codegen.kernels.fields_layer import (
    PairCode,
    channel_table,
    clamp_tables,
    padded_rows,
    pair_code,
    stage_variant,
)
from deployq.codegen.kernels.weighted import ConvolutionLayer, stage_parameters
from deployq.codegen.packing import description
from deployq.codegen.packing.fields import CHANNELS
from deployq.codegen.packing.woven import LaneFormat
from deployq.ops import KernelCall
from deployq.ops.base import Array

#: Bytes of a word of activations.
_WORD = 4

#: Units of weights in the unrolled loop of the block functions for pairs.
_UNROLLED = 8

#: An expanded activation of two pixels.
_OPERAND_BYTES = 4

#: Chunks described on the stack, and bytes of a description in the scratch memory where there are more.
_FEW_CHUNKS, _CHUNK_BYTES = 4, 12

#: Members of `dq_fields_conv2d_params` that are geometry of any convolution.
_GEOMETRY = (
    "in_height in_width in_channels out_height out_width out_channels kernel_height stride_height "
    "stride_width pad_top pad_left dilation_height input_zero_point groups group_inputs group_outputs"
).split()


@dataclass(frozen=True)
class Gathering:
    """How windows of a layer become operands: from runs of consecutive activations.

    Attributes:
        way: "pixel" (windows are pixels, whole words), "ring" (rows are expanded once, then whole runs are
            copied), "rows" (rows of any length, one chunk; bytes beyond the whole words of each run follow
            the words of all runs), "general" (anything; if runs are not whole words, windows are copied).
        runs: of a window.
        length: activations of a run.
        per_row: runs of a kernel row.
        step: bytes between the starts of two runs of a row.
        unit: taps of a unit of weights.
        pixel: activations of a pixel, all groups.
    """

    way: str
    runs: int
    length: int
    per_row: int
    step: int
    unit: int
    pixel: int

    @staticmethod
    def of(layer: ConvolutionLayer, unit: int) -> Gathering:
        """The best way for a layer whose weights come in units of so many taps."""
        _, inputs, height, width = layer.op.weight_shape
        together = layer.op.groups == 1 and (layer.op.window.dilations[1] == 1 or width == 1)
        per_row, length = (1, width * inputs) if together else (width, inputs)
        way = "rows" if together else "general"
        if together and inputs % _WORD == 0:
            way = "pixel" if layer.direct else "ring"
        step = layer.op.window.dilations[1] * layer.shape[0]
        return Gathering(way, height * per_row, length, per_row, step, unit, layer.shape[0])

    @property
    def copied(self) -> bool:
        """Windows are copied and then are one run."""
        return self.way == "general" and self.length % _WORD != 0

    @property
    def taps(self) -> int:
        """Taps of a window in whole words."""
        return -(-self.runs * self.length // _WORD) * _WORD

    @property
    def operands(self) -> int:
        """Taps in whole units."""
        return -(-self.taps // self.unit) * self.unit

    @property
    def chunk_lengths(self) -> Sequence[int]:
        """Taps that may lie between two flushes: whole units, no run across a border.

        All chunks are equal, but that of pixels the first one may be shorter.
        """
        if self.way == "rows":
            return [self.operands]
        if self.way == "pixel":
            units = self.operands // self.unit
            return [-(-units // chunks) * self.unit for chunks in range(1, units + 1)]
        run = self.taps if self.copied else self.length
        divisors = [n for n in range(self.unit, self.operands, self.unit) if self.operands % n == 0]
        return [n for n in divisors if n % run == 0 or run % n == 0] + [self.operands]

    def segment(self, chunk: int) -> int:
        """Activations expanded at a time, in one run and one chunk."""
        return min(chunk, self.taps if self.copied else self.length)

    def atom(self, chunk: int) -> int:
        """Activations that pixels and segments are multiples of."""
        return math.gcd(self.pixel, self.segment(chunk))

    @property
    def order(self) -> Array:
        """For each of `operands`, its tap in the order of the weights; -1 for padding."""
        taps = np.arange(self.runs * self.length).reshape(self.runs, self.length)
        if self.way == "rows":
            whole = self.length // _WORD * _WORD
            taps = np.concatenate([taps[:, :whole].reshape(-1), taps[:, whole:].reshape(-1)])
        order = np.full(self.operands, -1)
        order[: taps.size] = taps.reshape(-1)
        return order

    @property
    def tap_order(self) -> str:
        """What the generated C says of the order of the taps, "" where nothing is special about it."""
        whole = self.length // _WORD * _WORD
        if self.way != "rows" or whole in (0, self.length):
            return ""
        return f"Taps {whole} and on of every kernel row follow all the others."

    def ordered(self, rows: Array, padding: int) -> Array:
        """Rows (out, taps) in the order of the operands, (out, operands)."""
        return np.where(self.order >= 0, rows[:, self.order], padding)


def conv2d(layer: ConvolutionLayer, core: Core) -> KernelCall | None:
    """The kernel of a convolution with weights of one or two bits; None where it does not apply.

    It does not where the core has no SMLAD, for depthwise convolutions, and where the sums cannot be
    proven to fit their fields.
    """
    code = pair_code(layer.accumulation.weights.alphabet)
    if "dsp" not in core.features or layer.depthwise or code is None:
        return None
    layer = flattened(layer)
    ways = [Gathering.of(layer, code.layout.unit_taps)]
    ways += [replace(ways[0], way="general")] if ways[0].way == "rows" else []
    proven = ((way, _proven_chunk(code, layer, way)) for way in ways)
    windows, chunk = next(((way, chunk) for way, chunk in proven if chunk), (ways[0], None))
    if chunk is None:
        return None
    chunks = -(-windows.operands // chunk)
    variant: dict[str, int | str] = {"bits": layer.bits, "first_step": code.first_step}
    variant |= {"second_step": code.second_step, "chunked": int(chunks > 1)}
    variant |= stage_variant(layer.accumulation)
    centred = np.array([-code.first_step * code.centre * chunks, 0] * 2)
    return FieldsConvolution(
        layer=layer,
        windows=windows,
        chunk=chunk,
        weights=packed_rows(code.layout, layer, windows, code.base),
        channels=channel_table(layer.accumulation, layer.op.groups, centred),
        layout=code.layout,
    ).call("pairs", variant)


def flattened(layer: ConvolutionLayer) -> ConvolutionLayer:
    """A pointwise layer on an image of one row; any other layer as it is."""
    channels, height, width = layer.shape
    if not layer.direct or layer.op.window.strides != (1, 1):
        return layer
    return replace(layer, shape=(channels, 1, height * width))


def _proven_chunk(code: PairCode, layer: ConvolutionLayer, windows: Gathering) -> int | None:
    """The longest chunk that is proven, None where none is."""
    levels = windows.ordered(layer.rows.astype(np.int64), 0)
    pairs = padded_rows(levels, layer.op.groups).reshape(-1, 2, windows.operands)
    if not code.second_fits(pairs[:, 1]):
        return None
    return code.longest_chunk(pairs[:, 0], windows.chunk_lengths)


def packed_rows(
    layout: LaneFormat, layer: ConvolutionLayer, windows: Gathering, base: int, filler: int | None = None
) -> Array:
    """The words of all weights, group by group, with stored code = (level - base) / step.

    Output channels that fill up the last four of a group have the code `filler`, or else zeros for fields.
    """
    step = layer.accumulation.weights.alphabet.step
    codes = ((layer.rows.astype(np.int64) - base) // step).astype(np.uint8)
    groups = windows.ordered(codes, 0).astype(np.uint8).reshape(layer.op.groups, -1, windows.operands)
    if filler is not None:
        missing = -groups.shape[1] % CHANNELS
        groups = np.pad(groups, [(0, 0), (0, missing), (0, 0)], constant_values=filler)
    return np.concatenate([layout.pack(group, windows.order >= 0).reshape(-1) for group in groups])


@dataclass(frozen=True)
class FieldsConvolution:
    """A convolution all of whose constants are decided.

    Attributes:
        layer: the layer.
        windows: how they become operands.
        chunk: taps between two flushes.
        weights: words of all groups.
        channels: table of {bias, multiplier}.
        layout: of the words.
        unrolled: units of weights in the unrolled loop of the block function.
    """

    layer: ConvolutionLayer
    windows: Gathering
    chunk: int
    weights: Array
    channels: Array
    layout: LaneFormat
    unrolled: int = _UNROLLED

    def call(self, name: str, variant: Mapping[str, int | str]) -> KernelCall:
        """The call of the kernel of a format.

        Args:
            name: of the format, in the names of the template and of the function.
            variant: what the template takes; "direct" where the block function stores int8 outputs, not
                32-bit sums.
        """
        variant = {**variant, "gather": self.windows.way}
        width = f"w{variant['bits']}" + (f"s{variant['second_step']}" if "second_step" in variant else "")
        stored = "_shifted" if variant["shifted"] else "" if variant["direct"] else "_sums"
        suffix = ("_chunks" if self.windows.operands != self.chunk else "") + stored
        scratch = self._scratch(bool(variant["direct"]))
        offsets, end = {}, 0
        for member, size in scratch.items():
            offsets[member] = end if size else 0
            end += -(-size // _WORD) * _WORD
        stage = stage_parameters(self.layer.accumulation)
        return KernelCall(
            template=f"conv2d_wNa8_{name}.c.j2",
            function=f"dq_conv2d_{width}a8_{name}_{self.windows.way}{suffix}",
            variant=variant,
            parameters=stage | self._geometry() | offsets,
            tables={"weights": self.weights, "channels": self.channels}
            | clamp_tables(self.layer.accumulation),
            weights_format=description(self.layout, self.windows.tap_order),
            scratch_bytes=end,
            lead=self._lead(),
        )

    def _lead(self) -> int | None:
        """Bytes by which the output must start before the input to overwrite it, see `KernelCall`.

        Every input row or pixel is expanded or copied before the outputs that need it are written.
        """
        shape, geometry = self.layer.shape, self.layer.geometry
        width, channels = geometry["out_width"], geometry["out_channels"]
        rows = np.arange(geometry["out_height"])
        if self.windows.way == "pixel":
            in_row = np.minimum(np.arange(2, width + 2, 2), width)
            written = (rows[:, np.newaxis] * width + in_row).reshape(-1)
            row, column = np.divmod(written, width)
            unread = row * geometry["stride_height"] * shape[2] + column * geometry["stride_width"]
            lead = written * channels - unread * shape[0]
            return int(max(lead[written < rows.size * width], default=0))
        if not self._rings:
            return None
        unread = np.maximum(rows * geometry["stride_height"] + self._ring_rows - geometry["pad_top"], 0)
        lead = (rows + 1) * width * channels - unread * shape[0] * shape[2]
        return int(max(lead[unread < shape[1]], default=0))

    def _geometry(self) -> dict[str, int]:
        """Scalar members of `dq_fields_conv2d_params` besides the output stage and the scratch memory."""
        layer, windows = self.layer, self.windows
        members = {name: layer.geometry[name] for name in _GEOMETRY}
        first = windows.operands - (self._chunks - 1) * self.chunk
        return members | {
            "group_words": len(self.weights) // layer.op.groups,
            "quad_words": len(self.weights) // layer.op.groups // self._quads,
            "incomplete": int(layer.geometry["group_outputs"] % CHANNELS != 0),
            "runs": windows.per_row,
            "run_bytes": windows.length,
            "run_step": windows.step,
            "copied": int(windows.copied),
            "taps": windows.taps,
            "operands": windows.operands,
            "chunks": self._chunks,
            "first_taps": first,
            "chunk_taps": self.chunk,
            "segment": windows.segment(self.chunk),
            "atom": windows.atom(self.chunk),
            "first_skipped_units": -(first // windows.unit) % self.unrolled,
            "skipped_units": -(self.chunk // windows.unit) % self.unrolled,
            "ring_rows": self._ring_rows if self._rings else layer.shape[1],
            "ring_row_bytes": self._ring_row_bytes if self._rings else layer.shape[0] * layer.shape[2],
            "padded": int(self._rings),
        }

    @property
    def _chunks(self) -> int:
        return -(-self.windows.operands // self.chunk)

    @property
    def _quads(self) -> int:
        """Groups of four output channels in a group of the convolution."""
        return -(-self.layer.geometry["group_outputs"] // CHANNELS)

    @property
    def _rings(self) -> bool:
        """Whether rows are copied: where they are not padded, windows are read from the input itself."""
        return self.windows.way == "ring" or any(self.layer.op.window.pads)

    @property
    def _ring_rows(self) -> int:
        return self.layer.op.window.extent[0]

    @property
    def _ring_row_bytes(self) -> int:
        window = self.layer.op.window
        columns = (self.layer.geometry["out_width"] - 1) * window.strides[1] + window.extent[1]
        return columns * self.layer.shape[0]

    def _scratch(self, direct: bool) -> dict[str, int]:
        """Bytes of each part of the scratch memory, by the member that holds its offset."""
        windows, chunks = self.windows, self._chunks
        expanded = windows.way == "ring"
        row = self._ring_row_bytes
        segments = self.layer.geometry["out_width"] * windows.length // windows.segment(self.chunk)
        rest = windows.runs * (windows.length % _WORD) if windows.way == "rows" else 0
        copied = windows.taps if windows.copied else -(-rest // _WORD) * _WORD
        return {
            "operands_at": _OPERAND_BYTES * windows.operands,
            "chunks_at": _CHUNK_BYTES * chunks if chunks > _FEW_CHUNKS else 0,
            "sums_at": 0 if direct else 2 * CHANNELS * self._quads * 4,
            "windows_at": 2 * copied,
            "ring_at": self._ring_rows * row * (2 if expanded else 1) if self._rings else 0,
            "ring_sums_at": 4 * self._ring_rows * segments if expanded else 0,
            "atoms_at": 4 * row // windows.atom(self.chunk) if expanded else 0,
        }

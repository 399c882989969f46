"""What code generation takes and gives besides the graph: options, facts per layer, files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployq.codegen.kernels import OPTIMIZE, Order
from deployq.codegen.names import check_prefix
from deployq.errors import UsageError
from deployq.graph import Shape

IO_LAYOUTS = ("nhwc", "nchw")


@dataclass(frozen=True)
class EmitOptions:
    """Options of the generated library.

    Attributes:
        prefix: of every public C name, and the stem of the files.
        io_layout: "nhwc" or "nchw": element order of input and output of the C function.
        version: of deployq, for the info structure.
        model_sha256: hex digest of the source model, for the info structure.
        input_note: one sentence on how to make the input, e.g. "q = pixel - 128".
        single_file: kernels, weights and network in one C file, kernels static.
        optimize: what counts where speed, RAM and flash conflict, see `Core`.
        input_rows: there is a second C function that asks for its input row by row.

    Raises:
        UsageError: the prefix cannot name C functions, the layout or what to optimize is unknown.
    """

    prefix: str = "model"
    io_layout: str = "nhwc"
    version: str = ""
    model_sha256: str = ""
    input_note: str = ""
    single_file: bool = False
    optimize: str = "balanced"
    input_rows: bool = False

    def __post_init__(self) -> None:
        check_prefix(self.prefix)
        if self.io_layout not in IO_LAYOUTS:
            raise UsageError(
                f"unknown layout {self.io_layout!r}", where="--io-layout", hint=" or ".join(IO_LAYOUTS)
            )
        if self.optimize not in OPTIMIZE:
            raise UsageError(
                f"cannot optimize {self.optimize!r}", where="--optimize", hint=" or ".join(OPTIMIZE)
            )


@dataclass(frozen=True)
class LayerFacts:
    """One kernel call of the generated network; hook index i is its position.

    Attributes:
        name: of the graph node, or what an inserted transposition is for.
        node: name of the graph node, "" for an inserted transposition.
        source: nodes of the source model it came from.
        op: kind of operator.
        function: C kernel.
        output_shape: in the graph, per sample; (size,) for a transposition.
        order: element order of the output in C memory; None where it is the graph's order (CHW).
        macs: multiply-accumulates per inference.
        weight_bits: bits per weight code, 0 without weights.
        alphabet: name of the weight alphabet, "" without weights.
        weights_bytes: flash bytes of all tables of the layer.
        accumulator_bits: width the accumulator needs, 0 without weights.
        output_bytes: size of the output.
        arena_offset: of the output in bytes; None where it is the caller's buffer.
        scratch_bytes: working memory.
        stripes: kernel calls per inference: stripes of rows where the layer is part of a cascade, else 1.
    """

    name: str
    node: str
    source: str
    op: str
    function: str
    output_shape: Shape
    order: Order | None
    macs: int
    weight_bits: int
    alphabet: str
    weights_bytes: int
    accumulator_bits: int
    output_bytes: int
    arena_offset: int | None
    scratch_bytes: int
    stripes: int = 1


@dataclass(frozen=True)
class GeneratedLibrary:
    """The generated C library.

    Attributes:
        prefix: of public names.
        files: text by file name.
        layers: facts, in the order of execution.
        arena_bytes: size of the arena.
        arena_alignment: of the arena's start in bytes.
        weights_bytes: flash bytes of all tables.
        weights_sha256: hex digest of all tables, in order.
    """

    prefix: str
    files: Mapping[str, str] = field(repr=False)
    layers: tuple[LayerFacts, ...]
    arena_bytes: int
    arena_alignment: int
    weights_bytes: int
    weights_sha256: str

    @property
    def macs(self) -> int:
        """Multiply-accumulates per inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def sha256(self) -> str:
        """Hex digest over all files, for reproducibility checks."""
        digest = hashlib.sha256()
        for name, text in sorted(self.files.items()):
            digest.update(f"{name}\0{len(text)}\0{text}".encode())
        return digest.hexdigest()


def write_library(library: GeneratedLibrary, directory: Path) -> None:
    """Write all files into a directory, which is made if needed."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in library.files.items():
        (directory / name).write_text(text, encoding="ascii", newline="\n")

"""What every operator file provides, and the registries that find them.

An operator has two forms: a `FloatOperator` as imported from the model, and an `IntegerOperator`
as deployed. Both are frozen dataclasses that can run on a numpy batch; the integer one is the
executable specification, lowers itself to integer ONNX and names its C kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.graph import Quantization, Shape

Array = npt.NDArray[Any]
Int8Array = npt.NDArray[np.int8]


class OnnxBuilder(Protocol):
    """The part of the ONNX writer that operators use."""

    def add(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node, return the name of its output."""

    def reduce(self, op_type: str, source: str, axis: int) -> str:
        """Append a reduction that keeps dimensions; return the name of its output."""

    def constant(self, value: Array, name: str = "") -> str:
        """Add an initialiser, return its name."""

    def weights(self, weights: QuantizedWeights, shape: Shape, name: str = "") -> str:
        """Add low-bit weight levels, return the name of an int8 tensor of that shape."""


class FloatOperator(ABC):
    """An operator of the float network.

    Class attributes:
        kind: short name, e.g. "conv2d"; also the name of the C kernel template.
        keeps_quantization: the int8 output has the scale and zero point of the input.
    """

    kind: ClassVar[str]
    keeps_quantization: ClassVar[bool] = False

    @abstractmethod
    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Output shape per sample; raises ValueError when the inputs do not fit."""

    @abstractmethod
    def run(self, inputs: Sequence[Array]) -> Array:
        """Float meaning, on a batch."""

    @abstractmethod
    def integer(self, inputs: Sequence[Quantization], output: Quantization) -> IntegerOperator:
        """The integer form for given quantizations; weighted operators use `quantized` instead."""

    def output_quantization(self, inputs: Sequence[Quantization], calibrated: Quantization) -> Quantization:
        """Quantization of the output: the calibrated one unless the operator fixes another."""
        return inputs[0] if self.keeps_quantization else calibrated


class WeightedOperator(FloatOperator):
    """A float operator with weights to quantize (conv2d, linear)."""

    weight: Array
    bias: FloatArray
    groups: int
    fixed_alphabet: str

    @abstractmethod
    def patches(self, batch: Array, positions: Array | None) -> Array:
        """Rows of input values each output channel sees, shape (groups, m, taps).

        Args:
            batch: input batch of the operator, already zero-point free (padding is zero).
            positions: indices of the output positions to keep, or None for all.
        """

    @abstractmethod
    def positions(self, shape: Shape) -> int:
        """Number of output positions for an input shape (1 for linear)."""

    @abstractmethod
    def quantized(
        self, weights: QuantizedWeights, source: Quantization, output: Quantization
    ) -> IntegerOperator:
        """The integer form with quantized weights."""


class IntegerOperator(ABC):
    """An operator of the deployed network: int8 in, int8 out."""

    kind: ClassVar[str]

    @abstractmethod
    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Output shape per sample."""

    @abstractmethod
    def run(self, inputs: Sequence[Array]) -> Int8Array:
        """Integer meaning, exact, on an int8 batch."""

    @abstractmethod
    def lower(
        self, builder: OnnxBuilder, inputs: Sequence[str], output: str, shapes: Sequence[Shape]
    ) -> None:
        """Write the same meaning as integer ONNX nodes."""

    def kernel(self, shapes: Sequence[Shape]) -> KernelCall:
        """The C kernel of an operator without weights; those with weights are chosen by codegen."""
        raise NotImplementedError(f"codegen chooses the kernel of {self.kind}")

    def macs(self, inputs: Sequence[Shape]) -> int:
        """Multiply-accumulates per sample."""
        return 0


@dataclass(frozen=True)
class QuantizedWeights:
    """Solution of a quantizer for one layer.

    Attributes:
        levels: integers (out, taps) of the alphabet.
        scales: real scale a_c per output channel (out,); weight = a_c * level.
        bias: real bias (out,), corrected by the quantizer.
        alphabet: the alphabet, see `deployq.alphabet`.
    """

    levels: npt.NDArray[np.int16]
    scales: FloatArray
    bias: FloatArray
    alphabet: Alphabet


@dataclass(frozen=True)
class KernelCall:
    """One call of a C kernel, everything the templates need.

    Attributes:
        template: file under templates/kernels, e.g. "maxpool2d_a8.c.j2".
        function: C function of this variant; calls of equal function share its code.
        variant: template variables that make up the variant.
        parameters: scalar members of the parameter struct; "stage.shift" is member shift of member stage.
        tables: array members of the parameter struct, constant data in flash.
        weights_format: what the generated C says of how `weights` are packed, "" without weights.
        scratch_bytes: working memory inside the arena.
        in_place: element by element: the output may overwrite any input, and any order of the
            elements in memory is kept.
        lead: bytes by which the output must start before the first input so that it may overwrite
            it (0: it may start at the same address; negative: even behind it); "same": it may start at
            the same address and nowhere else; None: they must not overlap, unless the kernel works in
            place.
    """

    template: str
    function: str
    variant: Mapping[str, int | str] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, Array] = field(default_factory=dict)
    weights_format: str = ""
    scratch_bytes: int = 0
    in_place: bool = False
    lead: int | Literal["same"] | None = None


@dataclass(frozen=True)
class SourceNode:
    """A node of the source model, free of the ONNX library's types.

    Attributes:
        name: node name, for messages.
        op_type: ONNX operator.
        attributes: plain Python values, with names as in ONNX.
        inputs: one entry per ONNX input: a numpy constant, or the per-sample Shape of an
            activation, or None where an optional input is absent.
        opset: version of the default domain.
    """

    name: str
    op_type: str
    attributes: Mapping[str, Any]
    inputs: tuple[Array | Shape | None, ...]
    opset: int

    def constant(self, index: int) -> Array | None:
        """Constant input `index`, or None where it is absent.

        Raises:
            UnsupportedNodeError: the input is computed, not constant.
        """
        value = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(value, tuple):
            raise UnsupportedNodeError(f"input {index} is not a constant")
        return value

    def shape(self, index: int = 0) -> Shape:
        """Per-sample shape of the activation at input `index`.

        Raises:
            UnsupportedNodeError: the input is a constant or absent.
        """
        value = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(value, tuple):
            raise UnsupportedNodeError(f"input {index} is not an activation")
        return value


class UnsupportedNodeError(Exception):
    """An importer's reason for refusing a node; collected and shown for all nodes at once."""


#: Turns a source node into operators applied one after the other to its activations.
Importer = Callable[[SourceNode], Sequence[FloatOperator]]

_IMPORTERS: dict[str, Importer] = {}
_IMPORT_NOTES: dict[str, str] = {}


def imports(*op_types: str, note: str = "") -> Callable[[Importer], Importer]:
    """Register an importer for ONNX operators; `note` states limits in `deployq ops`."""

    def register(importer: Importer) -> Importer:
        for op_type in op_types:
            if op_type in _IMPORTERS:
                raise ValueError(f"two importers for {op_type}")
            _IMPORTERS[op_type] = importer
            _IMPORT_NOTES[op_type] = note
        return importer

    return register


def importers() -> Mapping[str, Importer]:
    """All importers by ONNX operator."""
    return dict(sorted(_IMPORTERS.items()))


def import_notes() -> Mapping[str, str]:
    """The limits of each importer, by ONNX operator."""
    return dict(sorted(_IMPORT_NOTES.items()))


@dataclass(frozen=True)
class Case:
    """A test case every executor must agree on: a float operator and its input shapes."""

    name: str
    op: FloatOperator
    shapes: tuple[Shape, ...]

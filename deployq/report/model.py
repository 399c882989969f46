"""The one data model of a build report; `text`, `json` and `html` render it.

Percentages run from 0 to 100, sizes are bytes. None means "not measured".
"""

from __future__ import annotations

from dataclasses import dataclass

from deployq.pareto import ParetoTable

#: Version of `report.json` and of every JSON document on stdout; raised when a field changes its meaning.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TensorReport:
    """Input or output of the C function.

    Attributes:
        shape: per sample, in the order of `layout`.
        layout: "NHWC" or "NCHW".
        scale: real = scale * (int8 - zero_point).
        zero_point: int8 value of the real zero.
    """

    shape: tuple[int, ...]
    layout: str
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy in percent; None and 0 samples when the build had no evaluation data."""

    float_: float | None = None
    quantized: float | None = None
    samples: int = 0


@dataclass(frozen=True)
class Memory:
    """What the library takes on the target.

    Attributes:
        weights_bytes: packed weights, biases and multipliers, in flash.
        arena_bytes: working memory the caller provides, in RAM.
        code_bytes: instructions and other constants, in flash; None without a compiler.
        stack_bytes: deepest stack of one inference, in RAM; None without a compiler.
    """

    weights_bytes: int
    arena_bytes: int
    code_bytes: int | None = None
    stack_bytes: int | None = None

    @property
    def flash_bytes(self) -> int | None:
        """Weights and code."""
        return None if self.code_bytes is None else self.weights_bytes + self.code_bytes

    @property
    def ram_bytes(self) -> int | None:
        """Arena and stack; input and output buffers are the caller's."""
        return None if self.stack_bytes is None else self.arena_bytes + self.stack_bytes


@dataclass(frozen=True)
class LayerReport:
    """One layer of the integer network.

    Attributes:
        name: from the model.
        op: kind of operator, e.g. "conv2d".
        macs: multiply-accumulates per inference.
        weight_bits: bits of one weight in flash; None for layers without weights.
        alphabet: name of the weight alphabet, as weight_bits.
        weights_bytes: constants of the layer in flash.
        relative_error: |X W - X~ Q| / |X W| on the calibration samples, before scales and biases are
            tuned, as weight_bits.
        sparsity: share of the weights whose level is zero, as weight_bits.
        accumulator_bits: two's complement bits the accumulator needs at most, proved at build time.
        instructions: per inference, in the emulator; None without it.
        stripes: kernel calls per inference: stripes of rows where the layer is executed depth first, else 1.
    """

    name: str
    op: str
    macs: int
    weight_bits: int | None = None
    alphabet: str | None = None
    weights_bytes: int = 0
    relative_error: float | None = None
    sparsity: float | None = None
    accumulator_bits: int | None = None
    instructions: int | None = None
    stripes: int = 1


@dataclass(frozen=True)
class Checked:
    """An executor that ran: samples compared with the Python reference, bytes that differed."""

    samples: int
    mismatches: int


@dataclass(frozen=True)
class Skipped:
    """An executor that did not run, and why."""

    skipped: str


Check = Checked | Skipped


@dataclass(frozen=True)
class Verification:
    """The executors compared byte for byte with the Python reference."""

    onnxruntime: Check
    host: Check
    qemu: Check

    @property
    def checks(self) -> dict[str, Check]:
        """Each executor's check, by the name shown to users."""
        return {"ONNX Runtime": self.onnxruntime, "host C": self.host, "QEMU": self.qemu}


@dataclass(frozen=True)
class Report:
    """Everything `deployq build` found out.

    Attributes:
        tool_version: version of deployq.
        name: prefix of the generated C.
        target: name of the target.
        model_sha256: hexadecimal digest of the source model.
        input: input of the C function.
        output: output of the C function.
        accuracy: float and quantized.
        memory: flash and RAM.
        instructions: per inference, in the emulator (instructions, not cycles); None without it.
        layers: in order of execution.
        verification: the proof of bit-exactness.
        machine: what the emulator ran, e.g. "mps2-an385, Armv6-M code"; None without it.
        warnings: what the user should know, one sentence each.
        notes: what the quantizer has to say, one sentence each.
        pareto: flash against accuracy of other widths, where deployq chose them.
    """

    tool_version: str
    name: str
    target: str
    model_sha256: str
    input: TensorReport
    output: TensorReport
    accuracy: Accuracy
    memory: Memory
    instructions: int | None
    layers: tuple[LayerReport, ...]
    verification: Verification
    machine: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pareto: ParetoTable | None = None


@dataclass(frozen=True)
class VerificationReport:
    """What `deployq verify` found out about an output directory; warnings name what was not checked."""

    name: str
    target: str
    verification: Verification
    instructions: int | None = None
    machine: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class InspectedLayer:
    """One layer of a float network after simplification.

    Attributes:
        name: from the model.
        op: kind of operator.
        shape: of the output, per sample.
        parameters: number of weights and biases.
        macs: multiply-accumulates per inference.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class InspectReport:
    """What `deployq inspect` found out about a model.

    Attributes:
        model: name of the graph.
        model_sha256: hexadecimal digest of the file.
        producer: the exporter named in the file, may be empty.
        opset: version of the ONNX operators.
        input_shape: per sample, NCHW.
        output_shape: per sample.
        layers: in order of execution.
    """

    model: str
    model_sha256: str
    producer: str
    opset: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    layers: tuple[InspectedLayer, ...]

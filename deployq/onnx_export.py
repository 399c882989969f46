"""Integer graph to ONNX with integer weights, exact in ONNX Runtime at every optimisation level.

The file holds only integer operations: ConvInteger and MatMulInteger on int8, int64
requantization, int8 pools. Weights of four bits or fewer are stored as INT4 or INT2 and cast, or,
at one bit, as bits in bytes expanded through a table; runtimes fold both away at load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from deployq.alphabet import Alphabet
from deployq.graph import Graph, Shape
from deployq.ops import IntegerOperator, QuantizedWeights

Array = npt.NDArray[Any]

#: (opset, IR version): INT4 needs opset 21, INT2 opset 25. Higher ones are not yet loadable everywhere.
_INT4_VERSIONS, _INT2_VERSIONS = (21, 10), (25, 13)

_TYPES = {
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float": TensorProto.FLOAT,
}


class _Builder:
    """Implements `deployq.ops.OnnxBuilder`; names of its own start with an underscore and a number."""

    def __init__(self, reserved: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.uses_int2 = False
        self._reserved = reserved
        self._constants: dict[tuple[str, Shape, bytes], str] = {}
        self._count = 0

    def _name(self) -> str:
        while True:
            self._count += 1
            name = f"_{self._count}"
            if name not in self._reserved:
                return name

    def fresh(self, wanted: str) -> str:
        """A name nothing else has, `wanted` if possible."""
        while wanted in self._reserved:
            wanted += "_"
        self._reserved.add(wanted)
        return wanted

    def add(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        result = output or self._name()
        if "to" in attributes:
            attributes["to"] = _TYPES[attributes["to"]]
        self.nodes.append(helper.make_node(op_type, list(inputs), [result], **attributes))
        return result

    def reduce(self, op_type: str, source: str, axis: int) -> str:
        return self.add(op_type, source, self.constant(np.array([axis], dtype=np.int64)), keepdims=1)

    def constant(self, value: Array, name: str = "") -> str:
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self._initializer(numpy_helper.from_array(np.ascontiguousarray(value)))
        return self._constants[key]

    def _initializer(self, tensor: onnx.TensorProto) -> str:
        tensor.name = self._name()
        self.initializers.append(tensor)
        return tensor.name

    def weights(self, weights: QuantizedWeights, shape: Shape, name: str = "") -> str:
        values, alphabet = weights.levels.reshape(shape), weights.alphabet
        if alphabet.bits == 1:
            return self._packed_bits(values, alphabet)
        stored, step, offset = _storable(values, alphabet)
        limit = np.abs(stored.astype(np.int16) * 2 + 1).max()
        if limit > 15:
            return self._initializer(numpy_helper.from_array(stored.astype(np.int8)))
        narrow = ml_dtypes.int2 if limit <= 3 else ml_dtypes.int4
        self.uses_int2 |= limit <= 3
        packed = self._initializer(numpy_helper.from_array(stored.astype(narrow)))
        if (step, offset) == (1, 0):
            return self.add("Cast", packed, to="int8")
        wide = self.add("Cast", packed, to="int32")
        scaled = self.add("Mul", wide, self.constant(np.array(step, dtype=np.int32)))
        moved = self.add("Add", scaled, self.constant(np.array(offset, dtype=np.int32)))
        return self.add("Cast", moved, to="int8")

    def _packed_bits(self, values: Array, alphabet: Alphabet) -> str:
        codes = alphabet.encode(values).reshape(-1)
        packed = np.packbits(codes, bitorder="little")
        table = alphabet.decode(
            np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        )
        data = self._initializer(numpy_helper.from_array(packed))
        rows = self.add("Cast", data, to="int32")
        levels = self.add("Gather", self.constant(table.astype(np.int8)), rows, axis=0)
        flat = self.add("Reshape", levels, self.constant(np.array([-1], dtype=np.int64)))
        if len(codes) % 8:
            bounds = [self.constant(np.array([edge], dtype=np.int64)) for edge in (0, len(codes))]
            flat = self.add("Slice", flat, *bounds)
        return self.add("Reshape", flat, self.constant(np.array(values.shape, dtype=np.int64)))


def _storable(values: Array, alphabet: Alphabet) -> tuple[Array, int, int]:
    """Levels as integers of the alphabet's width: (stored, step, offset), level = step * stored + offset."""
    half = 2 ** (alphabet.bits - 1)
    lowest, highest = alphabet.values[0], alphabet.values[-1]
    fits_directly = -half <= lowest and highest < half
    if alphabet.bits > 4 or fits_directly or (alphabet.bits == 3 and alphabet.largest < 8):
        return values, 1, 0
    stored = alphabet.encode(values).astype(np.int16) - half
    return stored, alphabet.step, alphabet.offset + alphabet.step * half


def _io_value(name: str, data_type: int, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, data_type, ["batch", *shape])


def export_onnx(graph: Graph, metadata: Mapping[str, str], *, float_io: bool = False) -> onnx.ModelProto:
    """Write an integer graph as an ONNX model.

    Args:
        graph: integer graph.
        metadata: entries added to the model's metadata_props besides scales and zero points.
        float_io: take and give float32 real values instead of int8.

    Returns:
        A checked model; input "(batch, C, H, W)" or "(batch, features)", batch dynamic.
    """
    builder = _Builder(set(graph.tensors))
    source, target = graph.tensors[graph.input], graph.tensors[graph.output]
    outer_input, outer_output = graph.input, graph.output
    if float_io:
        outer_input, outer_output = builder.fresh("input_real"), builder.fresh("output_real")
        _quantize_input(builder, graph, outer_input)
    for node in graph.nodes:
        assert isinstance(node.op, IntegerOperator)
        node.op.lower(builder, node.inputs, node.output, graph.input_shapes(node))
    if float_io:
        _dequantize_output(builder, graph, outer_output)
    io_type = TensorProto.FLOAT if float_io else TensorProto.INT8
    outputs = [_io_value(outer_output, io_type, target.shape)]
    proto = helper.make_graph(
        builder.nodes,
        graph.name,
        [_io_value(outer_input, io_type, source.shape)],
        outputs,
        initializer=builder.initializers,
    )
    opset, ir_version = _INT2_VERSIONS if builder.uses_int2 else _INT4_VERSIONS
    model = helper.make_model(
        proto, producer_name="deployq", opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    helper.set_model_props(model, {**_io_metadata(graph), **metadata})
    onnx.checker.check_model(model, full_check=True)
    return model


def with_outputs(model: bytes, tensors: Sequence[str]) -> bytes:
    """A model whose outputs are the given int8 tensors, in that order, to look into its layers."""
    proto = onnx.load_model_from_string(model)
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT8, None) for name in tensors)
    return bytes(proto.SerializeToString())


def metadata_of(model: bytes) -> dict[str, str]:
    """The metadata_props of a serialized model; raises ValueError if it is damaged."""
    try:
        proto = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise ValueError(f"not an ONNX model: {error}") from error
    return {entry.key: entry.value for entry in proto.metadata_props}


def _io_metadata(graph: Graph) -> dict[str, str]:
    entries = {}
    for label, name in (("input", graph.input), ("output", graph.output)):
        quantization = graph.tensors[name].quantization
        assert quantization is not None
        entries[f"{label}_scale"] = repr(quantization.scale)
        entries[f"{label}_zero_point"] = str(quantization.zero_point)
    return entries | {"layout": "NCHW"}


def _quantize_input(builder: _Builder, graph: Graph, outer: str) -> None:
    """Half-up rounding like `<m>_quantize_input`, up to float32; QuantizeLinear rounds halves to even."""
    quantization = graph.tensors[graph.input].quantization
    assert quantization is not None

    def constant(value: float) -> str:
        return builder.constant(np.array(value, dtype=np.float32))

    scaled = builder.add("Div", outer, constant(quantization.scale))
    moved = builder.add("Add", scaled, constant(0.5))
    shifted = builder.add("Add", builder.add("Floor", moved), constant(quantization.zero_point))
    clipped = builder.add("Clip", shifted, constant(-128), constant(127))
    builder.add("Cast", clipped, output=graph.input, to="int8")


def _dequantize_output(builder: _Builder, graph: Graph, outer: str) -> None:
    quantization = graph.tensors[graph.output].quantization
    assert quantization is not None
    wide = builder.add("Cast", graph.output, to="float")
    centred = builder.add("Sub", wide, builder.constant(np.array(quantization.zero_point, dtype=np.float32)))
    builder.add(
        "Mul", centred, builder.constant(np.array(quantization.scale, dtype=np.float32)), output=outer
    )

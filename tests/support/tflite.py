"""Tiny TFLite models, put together by hand from the file format's own schema."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_FLOAT, _INT8, _INT32 = schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.INT32


class _Model:
    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: int,
        scale: tuple[float, int] | None = None,
        content: np.ndarray | None = None,
    ) -> int:
        """Its number. A size of -1 varies. scale: (scale, zero point)."""
        one = schema.TensorT()
        one.name, one.type, one.buffer = name.encode(), kind, 0
        one.shape = [abs(size) for size in shape]
        if -1 in shape:
            one.shapeSignature = list(shape)
        if scale is not None:
            one.quantization = schema.QuantizationParametersT()
            one.quantization.scale, one.quantization.zeroPoint = [scale[0]], [scale[1]]
        if content is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(content.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            one.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(one)
        return len(self.graph.tensors) - 1

    def operator(
        self, code: int, inputs: list[int], outputs: list[int], kind: int, options: object, version: int = 1
    ) -> None:
        known = schema.OperatorCodeT()
        known.builtinCode = known.deprecatedBuiltinCode = code
        known.version = version
        self.model.operatorCodes.append(known)
        one = schema.OperatorT()
        one.opcodeIndex = len(self.model.operatorCodes) - 1
        one.inputs, one.outputs = inputs, outputs
        one.builtinOptionsType, one.builtinOptions = kind, options
        self.graph.operators.append(one)

    def sign(self, inputs: list[int], outputs: list[int]) -> None:
        """A signature with the names that litert-torch gives."""
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
        signature.inputs = [_entry(f"args_{place}", tensor) for place, tensor in enumerate(inputs)]
        signature.outputs = [_entry(f"output_{place}", tensor) for place, tensor in enumerate(outputs)]
        self.model.signatureDefs = [signature]

    def encode(self, inputs: list[int], outputs: list[int]) -> bytes:
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _entry(name: str, tensor: int) -> schema.TensorMapT:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry


def linear(
    weights: np.ndarray, shape: tuple[int, ...], bias: np.ndarray | None = None, signed: bool = False
) -> bytes:
    """scores = softmax(weights @ window + bias), weights float32 (labels, channels * length):
    ``models.linear``. signed: with a signature as litert-torch writes it.
    """
    bias = np.zeros(len(weights), np.float32) if bias is None else bias.astype(np.float32)
    made = _Model()
    batch = (shape[0], len(weights))
    x = made.tensor("x", shape, _FLOAT)
    w = made.tensor("weights", weights.shape, _FLOAT, content=weights.astype(np.float32))
    b = made.tensor("bias", (len(weights),), _FLOAT, content=bias)
    logits, scores = made.tensor("logits", batch, _FLOAT), made.tensor("scores", batch, _FLOAT)
    if signed:
        made.sign([x], [scores])
    operators, options = schema.BuiltinOperator, schema.BuiltinOptions
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    dense = schema.FullyConnectedOptionsT()
    made.operator(operators.FULLY_CONNECTED, [x, w, b], [logits], options.FullyConnectedOptions, dense)
    made.operator(operators.SOFTMAX, [logits], [scores], options.SoftmaxOptions, softmax)
    return made.encode([x], [scores])


def classifier(
    shape: tuple[int, ...] = (-1, 2, 4), int8: bool = False, name: str = "x", output: str = "scores"
) -> bytes:
    """scores = softmax((-m, m)), m = the mean of a window of 8 values: what ``models.classifier`` does."""
    made = _Model()
    kind = _INT8 if int8 else _FLOAT
    weights = np.repeat(np.array([[-1], [1]], np.float32) / 8, 8, axis=1)
    batch = (shape[0], 2)
    if int8:
        x = made.tensor(name, shape, kind, (1 / 32, 3))
        stored = np.rint(weights * 8 * 127).astype(np.int8)
        w = made.tensor("weights", (2, 8), kind, (1 / 8 / 127, 0), stored)
        b = made.tensor("bias", (2,), _INT32, (1 / 32 / 8 / 127, 0), np.zeros(2, np.int32))
        logits = made.tensor("logits", batch, kind, (1 / 32, 0))
        scores = made.tensor(output, batch, kind, (1 / 256, -128))
    else:
        x = made.tensor(name, shape, kind)
        w = made.tensor("weights", (2, 8), kind, content=weights)
        b = made.tensor("bias", (2,), kind, content=np.zeros(2, np.float32))
        logits, scores = made.tensor("logits", batch, kind), made.tensor(output, batch, kind)
    operators, options = schema.BuiltinOperator, schema.BuiltinOptions
    dense, softmax = schema.FullyConnectedOptionsT(), schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    version = 4 if int8 else 1
    made.operator(
        operators.FULLY_CONNECTED, [x, w, b], [logits], options.FullyConnectedOptions, dense, version
    )
    made.operator(operators.SOFTMAX, [logits], [scores], options.SoftmaxOptions, softmax, 2 if int8 else 1)
    return made.encode([x], [scores])

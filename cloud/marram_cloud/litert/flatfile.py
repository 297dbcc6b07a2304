"""A TFLite file as an object, by the schema that LiteRT ships, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from marram_cloud.compression.errors import CompressionError

FLOAT32 = schema.TensorType.FLOAT32
_IDENTIFIER = b"TFL3"
_OPERATORS = {
    number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)
}


def read(content: bytes) -> Any:  # noqa: ANN401 - the schema ships no types
    """A ``ModelT``. Raises CompressionError when it is none."""
    try:
        return schema.ModelT.InitFromPackedBuf(content, 0)
    except Exception as error:  # flatbuffers does not verify: whatever reading past the end gives
        raise CompressionError(f"this is no whole TFLite file: {type(error).__name__}: {error}") from error


def write(model: Any) -> bytes:  # noqa: ANN401
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def floats(model: Any, tensor: Any) -> NDArray[np.float32] | None:  # noqa: ANN401
    """The constant that a float tensor holds, in its shape; None where it holds none."""
    data = model.buffers[tensor.buffer].data
    if tensor.type != FLOAT32 or data is None or len(data) == 0:
        return None
    return np.frombuffer(bytes(data), "<f4").reshape(shape(tensor))


def shape(tensor: Any) -> tuple[int, ...]:  # noqa: ANN401
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def fill(model: Any, buffer: int, values: NDArray[np.float32]) -> None:  # noqa: ANN401
    model.buffers[buffer].data = np.frombuffer(values.astype("<f4").tobytes(), np.uint8)


def metadata(model: Any, name: str) -> bytes | None:  # noqa: ANN401
    for one in model.metadata or ():
        if one.name == name.encode():
            return bytes(model.buffers[one.buffer].data)
    return None


def set_metadata(model: Any, name: str, content: bytes) -> None:  # noqa: ANN401
    """In place of all that is there: converters write times and versions there."""
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = name.encode(), len(model.buffers) - 1
    model.metadata = [entry]


def made(model: Any) -> set[str]:  # noqa: ANN401
    """Names of the float tensors that the program is given or calculates."""
    graph = model.subgraphs[0]
    computed = {index for operator in graph.operators for index in operator.outputs}
    return {
        graph.tensors[index].name.decode()
        for index in (*graph.inputs, *sorted(computed))
        if graph.tensors[index].type == FLOAT32
    }


@dataclass(frozen=True)
class Operator:
    """name: LiteRT's own, "CONV_2D". tensors: names of the float tensors that it reads or makes and that are
    no constants. outputs: names of what it makes."""

    name: str
    tensors: tuple[str, ...]
    outputs: tuple[str, ...]


def operators(model: Any) -> list[Operator]:  # noqa: ANN401
    """In the order in which they run."""
    graph, moving = model.subgraphs[0], made(model)

    def named(indices: Iterable[int]) -> list[str]:
        return [graph.tensors[index].name.decode() for index in indices if index >= 0]

    found = []
    for one in graph.operators:
        code = model.operatorCodes[one.opcodeIndex]
        inputs, outputs = named(one.inputs), named(one.outputs)
        tensors = tuple(name for name in (*inputs, *outputs) if name in moving)
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        found.append(Operator(_OPERATORS[number], tensors, tuple(outputs)))
    return found

"""A TFLite file as an object, by the schema that LiteRT ships, and back."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from marram_cloud.compression.errors import CompressionError

FLOAT32 = schema.TensorType.FLOAT32
_IDENTIFIER = b"TFL3"


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

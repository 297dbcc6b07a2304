"""Programs in ONNX, run by onnxruntime. The one place in the agent that imports onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from marram.errors import ProgramError
from marram.programs.program import Array, ProgramOptions, Tensor

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}

# What onnxruntime says of a graph that names another file for its weights.
_OTHER_FILE = ("External data", "model_path must not be empty")


class OnnxProgram:
    """One ONNX file in one onnxruntime session; calls may come from any one thread at a time.

    initialisers: take the place of those in the file; onnxruntime fuses the graph with them as with its own.
    """

    def __init__(
        self, source: Path | bytes, options: ProgramOptions, initialisers: Mapping[str, Array] | None = None
    ) -> None:
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = options.threads
        session_options.inter_op_num_threads = 1
        session_options.log_severity_level = 3
        session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        known = onnxruntime.get_available_providers()
        providers = [name for name in options.providers if name in known] or ["CPUExecutionProvider"]
        # The session reads them for as long as it lives.
        self._held = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array).reshape(array.shape))
            for name, array in (initialisers or {}).items()
        }
        try:
            for name, value in self._held.items():
                session_options.add_initializer(name, value)
            self._session = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else str(source), session_options, providers=providers
            )
        except Exception as error:  # onnxruntime has no common base class for its errors
            where = "the given bytes" if isinstance(source, bytes) else str(source)
            raise ProgramError(f"onnxruntime cannot load {where}: {_why(error)}") from error
        self.inputs = tuple(_tensor(value) for value in self._session.get_inputs())
        self.outputs = tuple(_tensor(value) for value in self._session.get_outputs())
        self._names = [tensor.name for tensor in self.outputs]

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        try:
            values = self._session.run(self._names, arrays)
        except Exception as error:
            raise ProgramError(f"onnxruntime refused to run the program: {_first_line(error)}") from error
        return dict(zip(self._names, values, strict=True))


def _tensor(value: Any) -> Tensor:  # noqa: ANN401 - onnxruntime ships no types
    dtype = _DTYPES.get(value.type)
    if dtype is None:
        raise ProgramError(f"tensor {value.name!r} has type {value.type}, which Marram does not use")
    np.dtype(dtype)
    return Tensor(value.name, dtype, tuple(value.shape))


def _why(error: Exception) -> str:
    if any(words in str(error) for words in _OTHER_FILE):
        return (
            "its weights are in another file: write them into this one, as onnx.save(onnx.load(file), file) "
            "does, or torch.onnx.export(..., external_data=False)"
        )
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

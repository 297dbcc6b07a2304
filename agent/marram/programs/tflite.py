"""Programs in TFLite, run by LiteRT (or tflite-runtime, its predecessor, where only that is installed).

An int8 program takes and gives float32 here like any other: its quantisation is in the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marram.errors import ProgramError
from marram.programs.program import Array, ProgramOptions, Tensor

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    try:
        from tflite_runtime.interpreter import Interpreter
    except ImportError as error:
        raise ProgramError(
            "a TFLite program needs LiteRT, which is not installed: pip install 'marram[tflite]'"
        ) from error

Detail = dict[str, Any]


class TfliteProgram:
    """One TFLite file in one interpreter; calls may come from any one thread at a time.

    Names are the file's, without what TensorFlow's converter puts around them ("serving_default_x:0": "x").
    """

    def __init__(self, source: Path | bytes, options: ProgramOptions) -> None:
        try:
            content = source if isinstance(source, bytes) else source.read_bytes()
            self._interpreter = Interpreter(model_content=content, num_threads=options.threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, OSError) as error:
            where = "the given bytes" if isinstance(source, bytes) else str(source)
            raise ProgramError(f"LiteRT cannot load {where}: {error}") from error
        self._inputs: dict[str, Detail] = {_name(one): one for one in self._interpreter.get_input_details()}
        self._outputs: dict[str, Detail] = {_name(one): one for one in self._interpreter.get_output_details()}
        self.inputs = tuple(_tensor(name, one) for name, one in self._inputs.items())
        self.outputs = tuple(_tensor(name, one) for name, one in self._outputs.items())
        self._shapes = {name: tuple(one["shape"]) for name, one in self._inputs.items()}

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        self._check(arrays)
        try:
            self._resize({name: array.shape for name, array in arrays.items()})
            for name, array in arrays.items():
                detail = self._inputs[name]
                self._interpreter.set_tensor(detail["index"], _quantised(detail, array))
            self._interpreter.invoke()
            return {
                name: _dequantised(detail, self._interpreter.get_tensor(detail["index"]))
                for name, detail in self._outputs.items()
            }
        except (ValueError, RuntimeError) as error:
            raise ProgramError(f"LiteRT refused to run the program: {error}") from error

    def _check(self, arrays: dict[str, Array]) -> None:
        if arrays.keys() != self._inputs.keys():
            raise ProgramError(
                f"LiteRT refused to run the program: it takes {sorted(self._inputs)}, given: {sorted(arrays)}"
            )
        for tensor in self.inputs:
            array = arrays[tensor.name]
            fits = len(array.shape) == len(tensor.shape) and all(
                isinstance(want, str) or want == size
                for want, size in zip(tensor.shape, array.shape, strict=True)
            )
            if array.dtype != tensor.dtype or not fits:
                raise ProgramError(
                    f"LiteRT refused to run the program: {tensor.name!r} should be {tensor.dtype} "
                    f"{tensor.shape}, is {array.dtype} {array.shape}"
                )

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Sizes that vary are set before a call; only a change costs time."""
        if shapes == self._shapes:
            return
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._inputs[name]["index"], shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _name(detail: Detail) -> str:
    return str(detail["name"]).removeprefix("serving_default_").removesuffix(":0")


def _tensor(name: str, detail: Detail) -> Tensor:
    dtype = "float32" if _scales(detail) is not None else np.dtype(detail["dtype"]).name
    sizes = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return Tensor(
        name, dtype, tuple(int(size) if size >= 0 else f"size{axis}" for axis, size in enumerate(sizes))
    )


def _scales(detail: Detail) -> tuple[float, int] | None:
    """(scale, zero point) of a quantised tensor: value = scale * (stored - zero point)."""
    quantised = detail["quantization_parameters"]
    if detail["dtype"] not in (np.int8, np.uint8, np.int16) or len(quantised["scales"]) == 0:
        return None
    if len(quantised["scales"]) != 1:
        raise ProgramError(f"tensor {detail['name']!r} is quantised along an axis, which Marram does not use")
    return float(quantised["scales"][0]), int(quantised["zero_points"][0])


def _quantised(detail: Detail, array: Array) -> Array:
    scales = _scales(detail)
    if scales is None:
        return array
    scale, zero = scales
    limits = np.iinfo(detail["dtype"])
    stored = np.rint(array.astype(np.float32) / np.float32(scale)) + zero
    whole: Array = np.clip(stored, limits.min, limits.max).astype(detail["dtype"])
    return whole


def _dequantised(detail: Detail, array: Array) -> Array:
    scales = _scales(detail)
    if scales is None:
        return array
    scale, zero = scales
    values: NDArray[np.float32] = (array.astype(np.float32) - zero) * np.float32(scale)
    return values

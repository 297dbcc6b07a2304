"""Programs in TFLite, run by LiteRT (or tflite-runtime, its predecessor, where only that is installed).

An int8 program takes and gives float32 here like any other: its quantisation is in the file, and is done for
a whole block of windows at once.
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

    Names are those of the file's signature, or its tensors' own without what TensorFlow's converter puts
    around them ("serving_default_x:0": "x"). A file whose tensors all begin with a size of 1, which is what
    converters from PyTorch make, takes a block of any size: it is run row by row.
    """

    def __init__(self, source: Path | bytes, options: ProgramOptions) -> None:
        try:
            content = source if isinstance(source, bytes) else source.read_bytes()
            self._interpreter = Interpreter(model_content=content, num_threads=options.threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, OSError) as error:
            where = "the given bytes" if isinstance(source, bytes) else str(source)
            raise ProgramError(f"LiteRT cannot load {where}: {error}") from error
        ins, outs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._inputs = _named(ins, self._signature("inputs"))
        self._outputs = _named(outs, self._signature("outputs"))
        self._by_row = all(_sizes(one)[:1] == [1] for one in (*ins, *outs))
        self.inputs = tuple(_tensor(name, one, self._by_row) for name, one in self._inputs.items())
        self.outputs = tuple(_tensor(name, one, self._by_row) for name, one in self._outputs.items())
        self._shapes = {name: tuple(one["shape"]) for name, one in self._inputs.items()}

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        self._check(arrays)
        try:
            stored = {name: _quantised(self._inputs[name], array) for name, array in arrays.items()}
            found = self._rows(stored) if self._by_row else self._whole(stored)
        except (ValueError, RuntimeError) as error:
            raise ProgramError(f"LiteRT refused to run the program: {error}") from error
        return {name: _dequantised(detail, found[name]) for name, detail in self._outputs.items()}

    def _whole(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """One call."""
        self._resize({name: array.shape for name, array in arrays.items()})
        for name, array in arrays.items():
            self._interpreter.set_tensor(self._inputs[name]["index"], array)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(one["index"]) for name, one in self._outputs.items()}

    def _rows(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """A call for each row."""
        counts = {len(array) for array in arrays.values()}
        if len(counts) != 1:
            raise ValueError(f"its inputs have {sorted(counts)} rows")
        (count,) = counts
        found = {
            name: np.empty((count, *one["shape"][1:]), one["dtype"]) for name, one in self._outputs.items()
        }
        for row in range(count):
            one = self._whole({name: array[row : row + 1] for name, array in arrays.items()})
            for name, value in one.items():
                found[name][row] = value[0]
        return found

    def _signature(self, side: str) -> dict[str, str]:
        """Names by the tensors' own, where the file has one signature that names them."""
        signatures = self._interpreter.get_signature_list()
        if len(signatures) != 1:
            return {}
        (key,) = signatures
        runner = self._interpreter.get_signature_runner(key)
        details = runner.get_input_details() if side == "inputs" else runner.get_output_details()
        return {str(one["name"]): str(name) for name, one in details.items()}

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


def _named(details: list[Detail], signature: dict[str, str]) -> dict[str, Detail]:
    return {signature.get(str(one["name"])) or _name(one): one for one in details}


def _name(detail: Detail) -> str:
    return str(detail["name"]).removeprefix("serving_default_").removesuffix(":0")


def _sizes(detail: Detail) -> list[int]:
    """-1 for one that varies."""
    signature = detail["shape_signature"]
    return [int(size) for size in (signature if len(signature) else detail["shape"])]


def _tensor(name: str, detail: Detail, by_row: bool) -> Tensor:
    dtype = "float32" if _scales(detail) is not None else np.dtype(detail["dtype"]).name
    sizes = _sizes(detail)
    if by_row:
        sizes[0] = -1
    return Tensor(name, dtype, tuple(size if size >= 0 else f"size{axis}" for axis, size in enumerate(sizes)))


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

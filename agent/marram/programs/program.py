"""The seam to the inference runtimes: a program is one function from named arrays to named arrays.

What may come in: an ONNX file (``marram.programs.onnx``), a TFLite file (``marram.programs.tflite``).
A runtime is imported only when a program needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from marram.errors import ProgramError

Array = NDArray[np.generic]


class Tensor(msgspec.Struct, frozen=True):
    """One input or output: ``shape`` holds sizes, or a name for a dimension that varies ("batch")."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class ProgramOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a runtime is to be used.

    threads: threads inside one operator. providers: onnxruntime execution providers, best first.
    """

    threads: int = 1
    providers: tuple[str, ...] = ("CPUExecutionProvider",)


class Program(Protocol):
    """One loaded program."""

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...

    @property
    def outputs(self) -> tuple[Tensor, ...]: ...

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        """Run once. Raises ProgramError when the runtime refuses the arrays."""
        ...


def load(
    source: Path | bytes,
    runtime: str,
    options: ProgramOptions | None = None,
    initialisers: Mapping[str, Array] | None = None,
) -> Program:
    """Load a program with the runtime of that name ("onnx", "tflite").

    initialisers: arrays, by name, in place of those that an ONNX file holds.

    Raises ProgramError with the runtime's own words when the file is damaged, an operator is unknown,
    or the runtime is not installed.
    """
    options = options or ProgramOptions()
    if runtime == "onnx":
        from marram.programs.onnx import OnnxProgram

        return OnnxProgram(source, options, initialisers)
    if initialisers:
        raise ProgramError(f"only an ONNX program takes other initialisers than its own, not {runtime!r}")
    if runtime == "tflite":
        from marram.programs.tflite import TfliteProgram

        return TfliteProgram(source, options)
    raise ProgramError(f"runtime {runtime!r} is not known here; this version runs: onnx, tflite")

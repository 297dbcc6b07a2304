"""The int8 side of a bundle: ``infer.onnx``, and ``calibrate.onnx`` for devices that train on their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import onnx
from marram.bundle.file import Bundle
from marram.bundle.int8 import Int8Layout
from marram.bundle.manifest import Manifest, ProgramFile
from marram.programs.program import Program, Tensor, load
from numpy.typing import NDArray

from marram_cloud.compression.calibrate import CalibrateError, calibrate_program
from marram_cloud.compression.folding import fold
from marram_cloud.compression.operators import layers
from marram_cloud.compression.quantise import Ranges, quantise

CALIBRATE = "calibrate.onnx"
_BATCH = "batch"


@dataclass(frozen=True)
class Int8:
    """infer: bytes. calibrate, layout: None where a device cannot make int8 of its own; why not."""

    infer: bytes
    calibrate: bytes | None = None
    layout: Int8Layout | None = None
    why: str = ""

    def put_into(self, manifest: Manifest, members: dict[str, bytes]) -> tuple[Manifest, dict[str, bytes]]:
        """The manifest and the members with these programs in place of what was there."""
        infer = manifest.programs["infer"].file
        programs = dict(manifest.programs)
        before = programs.pop("calibrate", None)
        kept = {name: data for name, data in members.items() if before is None or name != before.file}
        kept[infer] = self.infer
        if self.calibrate is not None:
            programs["calibrate"] = program_file(CALIBRATE, self.calibrate)
            kept[CALIBRATE] = self.calibrate
        return msgspec.structs.replace(manifest, programs=programs, int8=self.layout), kept


def int8_programs(
    predict: bytes, parameters: NDArray[np.float32], ranges: Ranges, keep_float: Iterable[str] = ()
) -> Int8:
    """Quantise, and see whether a device could do the same. Raises CompressionError as ``quantise`` does."""
    infer = quantise(predict, parameters, ranges, keep_float)
    try:
        made = calibrate_program(predict, infer, parameters, ranges)
    except CalibrateError as error:
        return Int8(infer, why=str(error))
    return Int8(infer, made.content, made.layout)


def kept_float(bundle: Bundle, parameters: NDArray[np.float32]) -> tuple[str, ...]:
    """The layers that the bundle's int8 program has in float, so that its releases have them so too."""
    manifest = bundle.manifest
    if manifest.int8 is None:
        return ()  # made by an older version, which gave weights other names
    infer = onnx.load_from_string(bundle.members[manifest.programs["infer"].file])
    held = {one.name for one in infer.graph.initializer}
    folded = fold(bundle.members[manifest.programs["predict"].file], parameters)
    return tuple(one.name for one in layers(folded) if f"{one.weight}_quantized" not in held)


def program_file(file: str, content: bytes, runtime: Literal["onnx", "tflite"] = "onnx") -> ProgramFile:
    """The manifest's entry for a program."""
    program = load(content, runtime)
    return ProgramFile(file, runtime, _named(program, "inputs"), _named(program, "outputs"))


def _named(program: Program, side: str) -> tuple[Tensor, ...]:
    """Tensors with one name for every dynamic dimension, whatever the exporter called it."""
    tensors: tuple[Tensor, ...] = getattr(program, side)
    return tuple(
        Tensor(one.name, one.dtype, tuple(size if isinstance(size, int) else _BATCH for size in one.shape))
        for one in tensors
    )

"""``marram model inspect``: what a model file wants, and the lines of YAML that would run it."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Literal

import msgspec

from marram.children.child import Child, ChildError
from marram.errors import BundleError
from marram.inspection.child import Found, Look
from marram.inspection.suggestion import quoted_path, suggestion
from marram.programs.program import Tensor

_MEMORY = 2 << 30
_PATIENCE = 60.0


def inspect(path: Path) -> str:
    """Text for a terminal. Raises BundleError with the runtime's reason, or how the child ended."""
    if not path.is_file():
        raise BundleError(f"{path}: is not there, or is no file")
    if path.suffix == ".marram":
        return _bundle(path)
    if path.suffix not in (".onnx", ".tflite"):
        raise BundleError(f"{path}: expected a file that ends in .onnx, .tflite or .marram")
    runtime: Literal["onnx", "tflite"] = "tflite" if path.suffix == ".tflite" else "onnx"
    found = _look(Look(str(path.resolve()), runtime, _MEMORY))
    rows = [f"{path}: {runtime}, {path.stat().st_size} bytes", *_rows("takes", found.inputs)]
    rows += _rows("gives", found.outputs)
    return "\n".join([*rows, "", *suggestion(path, found)])


def _bundle(path: Path) -> str:
    from marram.bundle.file import read

    manifest = read(path).manifest
    rows = [
        f"{path}: bundle {manifest.name} {manifest.version}, {manifest.task}, "
        f"{len(manifest.channels)} channels, {manifest.length} samples at {manifest.rate:g} a second"
    ]
    for role, program in sorted(manifest.programs.items()):
        rows.append(f"{role} ({program.runtime})")
        rows += _rows("takes", program.inputs) + _rows("gives", program.outputs)
    return "\n".join([*rows, "", "model:", f"  bundle: {quoted_path(path)}"])


def _rows(word: str, tensors: tuple[Tensor, ...]) -> list[str]:
    width = max((len(one.name) for one in tensors), default=0)
    return [
        f"  {word}  {one.name:{width}}  {one.dtype}  ({', '.join(map(str, one.shape))})" for one in tensors
    ]


def _look(look: Look) -> Found:
    said: queue.SimpleQueue[msgspec.Struct | ChildError] = queue.SimpleQueue()
    child = Child("marram.inspection.child", Found, said.put, _PATIENCE)
    child.send(look)
    child.close()
    found: Found | None = None
    while not isinstance(frame := said.get(), ChildError):
        assert isinstance(frame, Found)
        found = frame
    if found is None:
        raise BundleError(f"{look.file}: the process that opened it: {frame}")
    return found

"""A frozen backbone: a PyTorch module that is made int8 once, or anybody's ONNX or TFLite file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import onnx
import torch
from marram.bundle.backbone import Features
from marram.bundle.layout import WINDOW, Axis, problem, sizes
from marram.bundle.manifest import BackboneLayout
from marram.errors import MarramError, ProgramError
from marram.programs.program import load
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data
from torch import nn
from torch.func import functional_call

from marram_cloud.compression.cost import work
from marram_cloud.compression.quantise import quantise
from marram_cloud.compression.ranges import calibrate, difference
from marram_cloud.workshop.export import export
from marram_cloud.workshop.plain import Plain

_EXAMPLE_BATCH = 1009
Windows = NDArray[np.float32]


class BackboneError(MarramError):
    """A backbone cannot be used; the message says why."""


class BackboneFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``backbone`` of ``project.yaml``.

    file: ONNX or TFLite, in the project's folder; takes windows and gives features. layout: the axes of its
    input. width: of images, whose rows a window holds one after the other.
    """

    file: Annotated[str, msgspec.Meta(pattern=r"^[^/\\]+\.(onnx|tflite)$")]
    layout: tuple[Axis, ...] = WINDOW
    width: Annotated[int, msgspec.Meta(gt=0)] | None = None

    def misfits(self, channels: int, length: int) -> Iterator[tuple[str, str]]:
        """What windows of this size cannot have: (key, why)."""
        if wrong := problem(self.layout, self.width, channels):
            yield "layout", wrong
        if self.width is not None and length % self.width:
            yield "width", f"expected a divisor of length, {length}, found {self.width}"


@dataclass(frozen=True)
class Backbone:
    """content: the program's bytes. macs: for a window, where they are known. features: of windows.

    told: for people, what it is.
    """

    content: bytes
    runtime: Literal["onnx", "tflite"]
    layout: BackboneLayout
    features: Callable[[Windows], Windows]
    told: str
    macs: int | None = None

    @property
    def file(self) -> str:
        """Its name in a bundle."""
        return f"backbone.{self.runtime}"


def from_module(module: nn.Module, windows: Windows) -> Backbone:
    """In int8, its ranges measured on windows float32 (n, channels, length).

    The module stays in evaluation mode: nothing of it is trained. Raises BackboneError, UnsupportedError or
    CompressionError.
    """
    module = module.eval()
    tensors = {
        name: value.detach()
        for name, value in (*module.named_parameters(), *module.named_buffers())
        if value.dtype == torch.float32
    }
    flat = torch.cat([value.reshape(-1) for value in tensors.values()]) if tensors else torch.zeros(0)
    parts = [value.numel() for value in tensors.values()]

    def made(parameters: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        split = zip(tensors.items(), torch.split(parameters, parts), strict=True)
        given = {name: part.reshape(value.shape) for (name, value), part in split}
        with Plain().installed():
            return (functional_call(module, given, (x,)),)

    tried = torch.from_numpy(windows[:2])
    try:
        with torch.no_grad():
            (features,) = made(flat, tried)
    except Exception as error:
        raise BackboneError(f"its forward fails on windows of shape {tuple(tried.shape)}: {error}") from error
    if not isinstance(features, torch.Tensor) or features.ndim < 2 or len(features) != len(tried):
        raise BackboneError("its forward should give features of shape (batch, ...) of windows")
    example = {"parameters": flat, "x": torch.zeros(_EXAMPLE_BATCH, *windows.shape[1:])}
    exact = export(made, example, ["features"], ["x"])
    values = flat.numpy()
    coarse = quantise(exact, values, calibrate(exact, values, windows))
    said = load(exact, "onnx")(parameters=values, x=windows)
    program = Features(load(coarse, "onnx"), BackboneLayout())
    apart = difference(said, {"features": program(windows)})
    told = f"int8; its features differ from fp32 by {apart:.1e}"
    return Backbone(coarse, "onnx", BackboneLayout(), program, told, work(exact, values).macs)


def _whole(path: Path) -> bytes:
    """The file with the weights in it that ``torch.onnx.export`` put into another beside it."""
    content = path.read_bytes()
    if path.suffix == ".tflite":
        return content
    try:
        model = onnx.load_from_string(content)
    except Exception:  # protobuf's own: the runtime says what is wrong with the file
        return content
    if not any(uses_external_data(one) for one in model.graph.initializer):
        return content
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, onnx.checker.ValidationError) as error:
        raise BackboneError(f"its weights are in a file beside it, which cannot be read: {error}") from error
    whole: bytes = model.SerializeToString(deterministic=True)
    return whole


def from_file(path: Path, about: BackboneFile, windows: Windows) -> Backbone:
    """As it is. windows: float32 (n, channels, length) to try it on. Raises BackboneError."""
    runtime: Literal["onnx", "tflite"] = "tflite" if path.suffix == ".tflite" else "onnx"
    layout = BackboneLayout(about.layout, about.width)
    try:
        content = _whole(path)
        program = load(content, runtime)
    except OSError as error:
        raise BackboneError(f"cannot be read: {error.strerror or error}") from error
    except ProgramError as error:
        raise BackboneError(str(error)) from error
    for side, tensors in (("input", program.inputs), ("output", program.outputs)):
        if len(tensors) != 1 or tensors[0].dtype != "float32":
            found = ", ".join(f"{one.name} ({one.dtype})" for one in tensors)
            raise BackboneError(f"should have one {side}, float32 or quantised; it has {found}")
    taken = sizes(about.layout, about.width, *windows.shape[1:])
    shape = program.inputs[0].shape
    fits = len(shape) == len(taken) and all(
        isinstance(one, str) or one == want for one, want in zip(shape[1:], taken[1:], strict=True)
    )
    if fits and isinstance(shape[0], int) and shape[0] != 1:
        raise BackboneError(f"takes {shape[0]} windows at once: export it for one, or for any number")
    if not fits:
        raise BackboneError(
            f"takes {shape}, but windows are laid out as {taken}: say in backbone.layout (and width) how it "
            "takes them"
        )
    given = program.outputs[0].shape
    if len(given) < 2 or any(isinstance(size, str) for size in given[1:]):
        raise BackboneError(f"gives {given}; features of a fixed shape for each window are needed")
    features = Features(program, layout)
    try:
        values = features(windows)
    except ProgramError as error:
        raise BackboneError(str(error)) from error
    if not np.isfinite(values).all():
        raise BackboneError("gives NaN or infinity for the calibration windows")
    return Backbone(content, runtime, layout, features, f"{path.name} as it is")

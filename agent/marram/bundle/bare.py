"""A bare model file, ONNX or TFLite, of anybody's making, as if it were a bundle that cannot be trained.

What a bundle's manifest would say comes from a description of a few lines. The program is put behind the same
window ``x`` float32 (n, channels, length) and the same outputs as a bundle's: ``scores`` of a classifier, and
``score`` and ``channel_scores`` of a model that reconstructs its input, which are computed here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from marram.bundle.description import WINDOW, Description
from marram.bundle.file import Bundle, read, read_content
from marram.bundle.manifest import Channel, Manifest, ProgramFile, Role
from marram.errors import BundleError, ProgramError
from marram.programs.program import Array, Program, ProgramOptions, Tensor, load

Kind = Literal["onnx", "tflite"]
_FLOATS = ("float32", "float64", "float16")


def open_model(path: Path, description: Description | None) -> Bundle:
    """A bundle's file, or, with a description, a bare model file. Raises BundleError."""
    if description is None:
        return read(path)
    kind: Kind = "tflite" if path.suffix == ".tflite" else "onnx"
    return wrap(read_content(path), kind, description, str(path))


def wrap(
    content: bytes, kind: Kind, description: Description, source: str = "model", version: str = ""
) -> BareBundle:
    """The bundle around a model file. source: names it in errors. version: by default of its content.

    digest: sha256 of the file.
    """
    digest = hashlib.sha256(content).hexdigest()
    channels = tuple(Channel(one.name, one.unit) for one in description.channels)
    file = f"infer.{kind}"
    window: tuple[int | str, ...] = ("batch", len(channels), description.length)
    manifest = Manifest(
        name=description.name,
        version=version or digest[:12],
        task=description.task,
        channels=channels,
        rate=description.rate,
        length=description.length,
        stride=description.stride,
        programs={"infer": ProgramFile(file, kind, (Tensor("x", "float32", window),), _given(description))},
        parameters=(),
        members={file: digest},
        labels=description.labels,
        threshold=description.threshold,
    )
    return BareBundle(manifest, {file: content}, digest, source, description)


def _given(description: Description) -> tuple[Tensor, ...]:
    if description.task == "classify":
        return (Tensor("scores", "float32", ("batch", len(description.labels))),)
    channels = len(description.channels)
    return (Tensor("score", "float32", ("batch",)), Tensor("channel_scores", "float32", ("batch", channels)))


@dataclass(frozen=True)
class BareBundle(Bundle):
    """A bundle made of one file."""

    description: Description

    def program(
        self,
        role: Role,
        options: ProgramOptions | None = None,
        initialisers: Mapping[str, Array] | None = None,
    ) -> Program:
        """See ``Bundle.program``. Raises BundleError when the file does not fit its description."""
        entry = self.manifest.programs.get(role)
        if entry is None:
            raise BundleError(f"{self.source}: is a bare model file, which has no {role!r} program")
        try:
            program = load(self.members[entry.file], entry.runtime, options, initialisers)
        except ProgramError as error:
            raise ProgramError(f"{self.source}: {error}") from error
        return _Adapted(program, entry, self.description, self.source)


class _Adapted:
    """A program behind the inputs and outputs that a bundle's have."""

    def __init__(self, program: Program, entry: ProgramFile, description: Description, source: str) -> None:
        self._program, self._about, self._source = program, description, source
        self.inputs, self.outputs = entry.inputs, entry.outputs
        self._input = self._checked_input()
        self._output = self._chosen_output()
        size = self._input.shape[description.layout.index("batch")]
        # A model with a batch of fixed size runs block by block.
        self._block = size if isinstance(size, int) else None

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        x = arrays["x"].astype(np.float32, copy=False)
        step = self._block or max(len(x), 1)
        parts = [self._run(x[start : start + step], step) for start in range(0, len(x), step)]
        found = np.concatenate(parts) if parts else np.zeros((0, *x.shape[1:]), np.float32)
        return self._scores(found) if self._about.task == "classify" else _errors(x, found)

    def _run(self, x: NDArray[np.float32], step: int) -> NDArray[np.float32]:
        count = len(x)
        if self._block is not None and count < step:
            x = np.concatenate([x, np.zeros((step - count, *x.shape[1:]), np.float32)])
        given = self._laid_out(x).astype(self._input.dtype, copy=False)
        value = self._program(**{self._input.name: given})[self._output.name].astype(np.float32, copy=False)
        about = self._about
        if about.task == "classify":
            return self._reshaped(value, (len(x), len(about.labels)))[:count]
        if value.shape != given.shape:
            raise self._misfit(value.shape, f"the input's own, {given.shape}")
        return self._taken_back(value)[:count]

    def _laid_out(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """A block (n, channels, length) in the model's layout."""
        axes = [axis for axis in self._about.layout if axis != "one"]
        if "channels" not in axes:
            x = x[:, 0, :]
        order = [axis for axis in WINDOW if axis in axes]
        moved = x.transpose([order.index(axis) for axis in axes])
        ones = tuple(place for place, axis in enumerate(self._about.layout) if axis == "one")
        return np.ascontiguousarray(np.expand_dims(moved, ones))

    def _taken_back(self, value: NDArray[np.float32]) -> NDArray[np.float32]:
        """The other way."""
        ones = tuple(place for place, axis in enumerate(self._about.layout) if axis == "one")
        axes = [axis for axis in self._about.layout if axis != "one"]
        order = [axis for axis in WINDOW if axis in axes]
        moved = np.squeeze(value, ones).transpose([axes.index(axis) for axis in order])
        return moved if "channels" in axes else moved[:, None, :]

    def _scores(self, value: NDArray[np.float32]) -> dict[str, Array]:
        if not self._about.logits:
            return {"scores": value}
        powers = np.exp(value - value.max(axis=1, keepdims=True, initial=-np.inf))
        return {"scores": powers / powers.sum(axis=1, keepdims=True)}

    def _reshaped(self, value: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The value without axes of size 1 that the shape does not have."""
        if value.size != np.prod(shape) or value.shape[0] != shape[0]:
            raise self._misfit(value.shape, f"{shape}: a score for each of the labels")
        return value.reshape(shape)

    def _misfit(self, found: tuple[int, ...], expected: str) -> ProgramError:
        return ProgramError(
            f"{self._source}: output {self._output.name!r} has the shape {found}, expected {expected}"
        )

    def _checked_input(self) -> Tensor:
        about, inputs = self._about, self._program.inputs
        if len(inputs) != 1:
            names = ", ".join(repr(one.name) for one in inputs)
            raise BundleError(f"{self._source}: has the inputs {names}; only models with one input can run")
        (tensor,) = inputs
        if tensor.dtype not in _FLOATS:
            raise BundleError(
                f"{self._source}: input {tensor.name!r} is {tensor.dtype}, expected one of "
                f"{', '.join(_FLOATS)}"
            )
        sizes = {"channels": len(about.channels), "length": about.length, "one": 1}
        expected = tuple(sizes.get(axis, axis) for axis in about.layout)
        fits = len(tensor.shape) == len(expected) and all(
            not isinstance(size, int) or not isinstance(want, int) or size == want
            for size, want in zip(tensor.shape, expected, strict=True)
        )
        if not fits:
            raise BundleError(
                f"{self._source}: input {tensor.name!r} has the shape {tensor.shape}, expected {expected} by "
                f"layout ({', '.join(about.layout)}), channels and length of its description"
            )
        return tensor

    def _chosen_output(self) -> Tensor:
        outputs, wanted = self._program.outputs, self._about.output
        chosen = [one for one in outputs if wanted in (None, one.name)]
        if len(chosen) != 1:
            names = ", ".join(repr(one.name) for one in outputs)
            found = f"no output {wanted!r}" if wanted is not None else f"{len(outputs)} outputs"
            raise BundleError(f"{self._source}: has {found}; set description.output to one of {names}")
        return chosen[0]


def _errors(x: NDArray[np.float32], again: NDArray[np.float32]) -> dict[str, Array]:
    """How far a reconstruction is from its input: mean squares."""
    squares = np.square(x - again)
    return {"score": squares.mean(axis=(1, 2)), "channel_scores": squares.mean(axis=2)}

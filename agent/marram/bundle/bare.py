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

from marram.bundle.description import Description
from marram.bundle.file import Bundle, read, read_content
from marram.bundle.layout import lay_out, sizes, take_back
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
    """A program behind the inputs and outputs that a bundle's have.

    One with state is run window by window, in their order, and begins anew when it is loaded.
    """

    def __init__(self, program: Program, entry: ProgramFile, description: Description, source: str) -> None:
        self._program, self._about, self._source = program, description, source
        self.inputs, self.outputs = entry.inputs, entry.outputs
        self._fed = self._checked_inputs()
        self._output = self._chosen_output()
        self._always = self._constants()
        self._state = self._first_state()
        batch = description.layout.index("batch")
        fixed = {tensor.shape[batch] for tensor in self._fed if isinstance(tensor.shape[batch], int)}
        # A model with a batch of fixed size runs block by block.
        self._block = 1 if self._state else min((int(size) for size in fixed), default=None)

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
        given = {
            tensor.name: lay_out(part, self._about.layout, self._about.width).astype(tensor.dtype, copy=False)
            for tensor, part in zip(self._fed, self._parts(x), strict=True)
        }
        outputs = self._program(**given, **self._always, **self._state)
        for name, output in self._about.state.items():
            self._state[name] = outputs[output].astype(self._state[name].dtype, copy=False)
        value = outputs[self._output.name].astype(np.float32, copy=False)
        if self._about.task == "classify":
            return self._labelled(value, len(x))[:count]
        (shape,) = (one.shape for one in given.values())
        if value.shape != shape:
            raise self._misfit(value.shape, f"the input's own, {shape}")
        return take_back(value, self._about.layout, self._about.width)[:count]

    def _parts(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The channels of each input, in the order of ``_fed``."""
        if not self._about.inputs:
            return [x]
        places = {channel.name: place for place, channel in enumerate(self._about.channels)}
        return [x[:, [places[name] for name in self._about.inputs[one.name]]] for one in self._fed]

    def _scores(self, value: NDArray[np.float32]) -> dict[str, Array]:
        if not self._about.logits:
            return {"scores": value}
        powers = np.exp(value - value.max(axis=1, keepdims=True, initial=-np.inf))
        return {"scores": powers / powers.sum(axis=1, keepdims=True)}

    def _labelled(self, value: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """A score for each label, without axes of size 1. One score of two labels is the second's."""
        labels = len(self._about.labels)
        if labels == 2 and value.size == count and not self._about.logits:
            return np.stack([1 - value.reshape(-1), value.reshape(-1)], axis=1)
        if value.size != count * labels or value.shape[0] != count:
            raise self._misfit(value.shape, f"{(count, labels)}: a score for each of the labels")
        return value.reshape(count, labels)

    def _misfit(self, found: tuple[int, ...], expected: str) -> ProgramError:
        return ProgramError(
            f"{self._source}: output {self._output.name!r} has the shape {found}, expected {expected}"
        )

    def _checked_inputs(self) -> list[Tensor]:
        """Those that take the window, or their part of it; every other must be in the description."""
        about, known = self._about, {one.name: one for one in self._program.inputs}
        named = [*about.inputs, *about.state, *about.constants, *([about.input] if about.input else [])]
        missing = [name for name in named if name not in known]
        if missing:
            raise BundleError(
                f"{self._source}: has no input {missing[0]!r}; it has: {', '.join(map(repr, known))}"
            )
        left = [name for name in known if name not in named]
        fed = list(about.inputs) or [about.input or (left.pop(0) if len(left) == 1 else "")]
        if left or "" in fed:
            names = ", ".join(map(repr, known))
            raise BundleError(
                f"{self._source}: has the inputs {names}; say in the description which takes the window "
                "(input or inputs), and what the others take (state, constants)"
            )
        for name in fed:
            self._check(known[name], len(about.inputs.get(name, about.channels)))
        return [known[name] for name in fed]

    def _check(self, tensor: Tensor, channels: int) -> None:
        about = self._about
        if tensor.dtype not in _FLOATS:
            raise BundleError(
                f"{self._source}: input {tensor.name!r} is {tensor.dtype}, expected one of "
                f"{', '.join(_FLOATS)}"
            )
        expected = sizes(about.layout, about.width, channels, about.length)
        fits = len(tensor.shape) == len(expected) and all(
            not isinstance(size, int) or not isinstance(want, int) or size == want
            for size, want in zip(tensor.shape, expected, strict=True)
        )
        if not fits:
            raise BundleError(
                f"{self._source}: input {tensor.name!r} has the shape {tensor.shape}, expected {expected} by "
                f"layout ({', '.join(about.layout)}), channels and length of its description"
            )

    def _chosen_output(self) -> Tensor:
        outputs, about = {one.name: one for one in self._program.outputs}, self._about
        missing = [name for name in about.state.values() if name not in outputs]
        if missing:
            raise BundleError(
                f"{self._source}: has no output {missing[0]!r}; it has: {', '.join(map(repr, outputs))}"
            )
        fed_back = set(about.state.values())
        chosen = [
            one
            for name, one in outputs.items()
            if name == about.output or (about.output is None and name not in fed_back)
        ]
        if len(chosen) != 1:
            names = ", ".join(map(repr, outputs))
            found = f"no output {about.output!r}" if about.output is not None else f"{len(chosen)} outputs"
            raise BundleError(f"{self._source}: has {found}; set description.output to one of {names}")
        return chosen[0]

    def _constants(self) -> dict[str, Array]:
        known = {one.name: one for one in self._program.inputs}
        return {
            name: np.full(_sizes(known[name]), value, known[name].dtype)
            for name, value in self._about.constants.items()
        }

    def _first_state(self) -> dict[str, Array]:
        known = {one.name: one for one in self._program.inputs}
        return {name: np.zeros(_sizes(known[name]), known[name].dtype) for name in self._about.state}


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """Of one window."""
    return tuple(size if isinstance(size, int) else 1 for size in tensor.shape)


def _errors(x: NDArray[np.float32], again: NDArray[np.float32]) -> dict[str, Array]:
    """How far a reconstruction is from its input: mean squares."""
    squares = np.square(x - again)
    return {"score": squares.mean(axis=(1, 2)), "channel_scores": squares.mean(axis=2)}

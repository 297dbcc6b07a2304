"""A model in two parts: a backbone that never changes makes features of windows for a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from marram.bundle.layout import Axis, lay_out
from marram.errors import ProgramError
from marram.programs.program import Array, Program, Tensor

_BATCH = 64


class Layout(Protocol):
    """See ``manifest.BackboneLayout``."""

    @property
    def axes(self) -> Sequence[Axis]: ...

    @property
    def width(self) -> int | None: ...


class Features:
    """The backbone as a function of windows float32 (n, channels, length) to features float32 (n, ...)."""

    def __init__(self, backbone: Program, layout: Layout) -> None:
        self._program, self._layout = backbone, layout
        (self._input,), (self._output,) = backbone.inputs, backbone.outputs
        self._batch = 1 if self._input.shape[0] == 1 else _BATCH

    def __call__(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raises ProgramError."""
        begins = range(0, max(len(windows), 1), self._batch)
        parts = [self._block(windows[begin : begin + self._batch]) for begin in begins]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _block(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        given = lay_out(windows, self._layout.axes, self._layout.width)
        made = self._program(**{self._input.name: given})[self._output.name]
        if len(made) != len(windows):
            raise ProgramError(f"the backbone gives {made.shape} for {len(windows)} windows")
        return made.astype(np.float32, copy=False)


class Chained:
    """A program of a bundle with a backbone, which takes windows as ``x``."""

    def __init__(self, features: Features, channels: int, length: int, head: Program) -> None:
        self._features, self._head = features, head
        window = Tensor("x", "float32", ("batch", channels, length))
        self.inputs = tuple(window if one.name == "x" else one for one in head.inputs)
        self.outputs = head.outputs

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        """See ``Program``."""
        windows = arrays.pop("x").astype(np.float32, copy=False)
        return self._head(x=self._features(windows), **arrays)

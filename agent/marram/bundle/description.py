"""What a bare model file does not say of itself, as it stands in the agent's YAML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from marram.bundle.layout import WINDOW, Axis, problem

Positive = Annotated[int, msgspec.Meta(gt=0, le=1_000_000)]


class DescribedChannel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One input channel.

    name: as the sensors or stream.channels give it.
    unit: of the values that the model was trained with.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    unit: str = ""


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model file does not say of itself.

    name: of the model, in predictions and the status.
    task: whether it gives a score for each label, or its input again.
    channels: the input channels, in the model's order.
    rate: samples a second.
    length: samples in a window.
    stride: samples from one window to the next.
    labels: the classes, in the order of the scores.
    threshold: reconstruction error (mean square) above which a window is an anomaly.
    layout: the axes of the model's input; one stands for an axis of size 1, height and width for an
    image's length.
    width: of an image whose rows a window holds one after the other.
    input: name of the input that takes the window, by default the only one.
    inputs: instead, which channels each of several inputs takes.
    state: inputs that take what an output gave for the window before, zeros at the start.
    constants: inputs that always take the same number.
    output: name of the output that is used, by default the only one.
    logits: whether the scores still have to go through a softmax.
    """

    name: Annotated[
        str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,47}$(?!\n)", examples=["press", "pump-3"])
    ]
    task: Literal["classify", "reconstruct"]
    channels: Annotated[tuple[DescribedChannel, ...], msgspec.Meta(min_length=1)]
    rate: Annotated[float, msgspec.Meta(gt=0)]
    length: Positive
    stride: Positive
    labels: tuple[str, ...] = ()
    threshold: float | None = None
    layout: tuple[Axis, ...] = WINDOW
    width: Positive | None = None
    input: str | None = None
    inputs: dict[str, tuple[str, ...]] = {}
    state: dict[str, str] = {}
    constants: dict[str, float] = {}
    output: str | None = None
    logits: bool = False

    def problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Cross-field mistakes."""
        names = [channel.name for channel in self.channels]
        if len(set(names)) < len(names):
            yield ("channels",), "expected channels with names of their own, found one twice"
        if self.task == "classify" and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            yield ("labels",), "expected at least two labels, each once, for the task classify"
        yield from self._misled(names)
        if wrong := problem(self.layout, self.width, len(names)):
            yield ("layout",), wrong

    def _misled(self, names: list[str]) -> Iterable[tuple[tuple[str | int, ...], str]]:
        if self.width is not None and self.length % self.width:
            yield ("width",), f"expected a divisor of length, {self.length}, found {self.width}"
        taken = [name for part in self.inputs.values() for name in part]
        if self.inputs and sorted(taken) != sorted(names):
            yield ("inputs",), f"expected each of {', '.join(names)} once, found {', '.join(taken)}"
        if self.inputs and (self.input is not None or self.task != "classify"):
            yield ("inputs",), "expected no key input beside it, and the task classify"
        fed = [*self.inputs, *self.state, *self.constants, *([self.input] if self.input else [])]
        for name in sorted({name for name in fed if fed.count(name) > 1}):
            yield ("state",), f"expected each input once, found {name!r} in two places"

"""What is known of a convolution before it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxscript import opset18 as op

# ONNX values while a graph is traced; onnxscript has no public type for them.
Value = Any

# Planes up to this large are faster with the batch innermost; measured with batches of 16.
_SMALL = 256
# Rows that a depthwise one makes at once: its kernel grows with their square. 25 were measured faster so.
_LOW = 32


@dataclass(frozen=True)
class Sizes:
    """Of one convolution along each axis; channels are those of the whole of it."""

    inside: int
    outside: int
    groups: int
    inputs: list[int]
    outputs: list[int]
    kernel: list[int]
    steps: list[int]
    pads: list[int]
    spreads: list[int]

    @property
    def depthwise(self) -> bool:
        return self.groups == self.inside == self.outside > 1

    @property
    def point(self) -> bool:
        """Whether each place of the output sees one place of the input, in all of its channels."""
        return math.prod(self.kernel) == 1 and not any(self.pads) and self.groups == 1

    @property
    def single(self) -> bool:
        """Whether all steps are 1."""
        return all(step == 1 for step in self.steps)

    @property
    def innermost(self) -> bool:
        """Whether it is faster with the batch innermost."""
        return (
            len(self.inputs) == 2
            and (self.groups == 1 or (self.depthwise and self.inputs[0] <= _LOW))
            and math.prod(self.inputs) <= _SMALL
            and all(pad <= over for pad, over in zip(self.pads, self.overhang, strict=True))
        )

    @property
    def wide(self) -> list[int]:
        """The input's size with its padding."""
        return [size + 2 * pad for size, pad in zip(self.inputs, self.pads, strict=True)]

    @property
    def rest(self) -> int:
        """What the last axis lacks to be whole steps long, where it is cut into phases."""
        return -self.wide[-1] % self.steps[-1] if self.kernel[-1] > 1 else 0

    @property
    def overhang(self) -> list[int]:
        """How far the kernel reaches beyond one place."""
        return [spread * (size - 1) for size, spread in zip(self.kernel, self.spreads, strict=True)]


def sizes_of(
    input: Value, outputs: Sequence[int], weight: Value, steps: Sequence[int], pads: Sequence[int],
    spreads: Sequence[int], groups: int,
) -> Sizes:  # fmt: skip
    """input: (n, c, ...). outputs: the spatial sizes of what is made. weight: (o, c / groups, ...)."""
    return Sizes(
        int(input.shape[1]), int(weight.shape[0]), groups, sides(input), list(outputs), sides(weight),
        list(steps), list(pads), list(spreads),
    )  # fmt: skip


def sides(value: Value) -> list[int]:
    """The spatial part of a shape (batch, channels, ...)."""
    return [int(size) for size in value.shape[2:]]


def each(values: Sequence[int], axes: int) -> list[int]:
    """One value for each axis: PyTorch may give one for all."""
    return list(values) if len(values) == axes else list(values) * axes


def ints(values: list[int]) -> Value:
    """A constant, int64 (n,)."""
    return op.Constant(value_ints=values)

"""How a model takes a block of windows: as it is, with the axes in another order, or as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Axis = Literal["batch", "channels", "length", "height", "width", "one"]
WINDOW: tuple[Axis, ...] = ("batch", "channels", "length")
_IMAGE: tuple[Axis, ...] = ("batch", "channels", "height", "width")


def axes_of(width: int | None) -> tuple[Axis, ...]:
    """The axes of a block of windows: with a width, an image's length is its height and its width."""
    return WINDOW if width is None else _IMAGE


def lay_out(x: NDArray[np.float32], layout: Sequence[Axis], width: int | None) -> NDArray[np.float32]:
    """A block (n, channels, length) in a model's layout, contiguous."""
    axes = [axis for axis in layout if axis != "one"]
    if width is not None:
        x = x.reshape(*x.shape[:2], -1, width)
    if "channels" not in axes:
        x = x[:, 0]
    order = [axis for axis in axes_of(width) if axis in axes]
    moved = x.transpose([order.index(axis) for axis in axes])
    ones = tuple(place for place, axis in enumerate(layout) if axis == "one")
    return np.ascontiguousarray(np.expand_dims(moved, ones))


def take_back(value: NDArray[np.float32], layout: Sequence[Axis], width: int | None) -> NDArray[np.float32]:
    """A block in a model's layout as (n, channels, length)."""
    ones = tuple(place for place, axis in enumerate(layout) if axis == "one")
    axes = [axis for axis in layout if axis != "one"]
    order = [axis for axis in axes_of(width) if axis in axes]
    moved = np.squeeze(value, ones).transpose([axes.index(axis) for axis in order])
    whole = moved if "channels" in axes else moved[:, None]
    return whole.reshape(*whole.shape[:2], -1)


def sizes(layout: Sequence[Axis], width: int | None, channels: int, length: int) -> tuple[int | str, ...]:
    """The shape that a block has in a model's layout; "batch" for the number of windows."""
    known: dict[Axis, int | str] = {
        "batch": "batch", "channels": channels, "length": length, "one": 1,
        "height": length // (width or 1), "width": width or 1,
    }  # fmt: skip
    return tuple(known[axis] for axis in layout)


def problem(layout: Sequence[Axis], width: int | None, channels: int) -> str:
    """What is wrong with the layout of windows of so many channels; "" where nothing is."""
    axes = [axis for axis in layout if axis != "one"]
    needed = set(axes_of(width)) - ({"channels"} if channels == 1 else set())
    if len(set(axes)) == len(axes) and needed <= set(axes) <= set(axes_of(width)):
        return ""
    return f"expected each of {', '.join(sorted(needed))} once, found {', '.join(layout)}"

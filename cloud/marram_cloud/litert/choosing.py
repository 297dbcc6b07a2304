"""Which int8 a program gets for LiteRT: several are made, timed and compared with float; one is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from marram.programs.program import load
from numpy.typing import NDArray

from marram_cloud.compression.cost import measure_cost
from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.quantise import Ranges
from marram_cloud.litert.quantise import Method, Wanted, difference, in_float, quantise
from marram_cloud.litert.tensors import measured, noise

BOUND = 0.1
"""Most that an int8 form may differ from fp32: mean absolute difference, in standard deviations of fp32."""

_NEAR = 0.03  # of forms as near as this, speed decides
_AS_FAST = 1.25  # and of those, size
_AUTOMATIC: tuple[Method, ...] = ("dynamic", "static", "integer")
_RUNS = 200
_HELD_OUT = 4  # every fourth window judges
_MOST = 256

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """One int8 program. far: standard deviations from fp32, 0 where no windows show it. us: of one window,
    median, on one thread here."""

    content: bytes
    method: Method
    far: float
    us: float

    def __str__(self) -> str:
        return f"{self.method} {len(self.content)} bytes, {self.us:.0f} us a window, {self.far:.2g} from fp32"


def best(
    program: bytes,
    shape: tuple[int, int],
    windows: Floats | None,
    wanted: Wanted = "auto",
    given: Ranges | None = None,
) -> tuple[Form, str]:
    """(the int8 form, how it was made and what was not taken, for people). program: float TFLite.

    shape: of a window, (channels, length). windows: float32 (n, channels, length), for the ranges of tensors
    and to compare with float; None where there are none. given: ranges of some tensors, which go before those
    of the windows. Raises CompressionError when no way works or none is near enough to float.
    """
    given = given or {}
    making, judging = (noise(shape), noise(shape)[:0]) if windows is None else _parts(windows)
    known = {**({} if windows is None else measured(program, making)), **given}
    made, failed = [], []
    for method in _AUTOMATIC if wanted == "auto" else (wanted,):
        try:
            made.append(_form(program, method, known, judging, making[:1]))
        except CompressionError as error:
            failed.append(f"{method}: {error}")
    taken = chosen(made, failed)
    far = f"{taken.far:.2g} standard deviations from fp32" if len(judging) else "not compared with fp32"
    told = [f"{len(taken.content)} bytes, int8 ({taken.method}), {taken.us:.0f} us a window", far]
    if taken.method != "dynamic":
        told.append(f"in float: {', '.join(in_float(taken.content)) or 'nothing'}")
        told.append(f"{len(given)} of its tensors have the ranges of infer.onnx")
    others = [*(str(one) for one in made if one is not taken), *failed]
    if others:
        told.append(f"not taken: {'; '.join(others)}")
    return taken, "; ".join(told)


def _parts(windows: Floats) -> tuple[Floats, Floats]:
    """Windows to make a form with, and to judge it by."""
    windows = windows[: _HELD_OUT * _MOST]
    if len(windows) < _HELD_OUT:
        return windows, windows
    return np.delete(windows, np.s_[::_HELD_OUT], axis=0)[:_MOST], windows[::_HELD_OUT]


def _form(program: bytes, method: Method, ranges: Ranges, judging: Floats, example: Floats) -> Form:
    content = quantise(program, method, ranges)
    # In a process of its own: some kernels end theirs where two ranges do not fit each other.
    cost = measure_cost(content, {"x": example}, _RUNS, "tflite")
    far = difference(load(program, "tflite"), load(content, "tflite"), judging) if len(judging) else 0.0
    return Form(content, method, far, cost.p50)


def chosen(made: Sequence[Form], failed: Sequence[str]) -> Form:
    """Of those that are near to fp32 the smallest that is as fast as the fastest, else the nearest.

    failed: why others do not work. Raises CompressionError when there is none within ``BOUND``.
    """
    near = [one for one in made if one.far <= _NEAR]
    if not near and made:
        near = [min(made, key=lambda one: one.far)]
    if not near:
        raise CompressionError(f"no int8 for LiteRT: {'; '.join(failed)}")
    if near[0].far > BOUND or not np.isfinite(near[0].far):
        raise CompressionError(
            f"int8 for LiteRT ({near[0].method}) differs from fp32 by {near[0].far:.2f} standard deviations, "
            f"more than the {BOUND} allowed; it is left out"
        )
    fastest = min(one.us for one in near)
    return min((one for one in near if one.us <= _AS_FAST * fastest), key=lambda one: len(one.content))

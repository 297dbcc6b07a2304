"""The ranges of activations as a device tells them: one byte for each end.

A range always holds 0, as int8 does, so each end is a size alone: 0, or one of 255 sizes from 2^-11.75 to
2^20, eight to the octave. A size is rounded up to the next one. So a range says little of any window, and
neither NaN, infinity nor a minimum above the maximum can be said at all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marram.errors import WireError
from marram.wire import reasons

Floats = NDArray[np.float64]
LARGEST = 2.0**20
_OCTAVE, _TOP = 8, 255
_CLOSE = 1e-6  # of a step: a size that was decoded gives its own byte again


def encode(minimum: Floats, maximum: Floats, limit: float) -> bytes:
    """(A,) and (A,), finite, as 2 A bytes: all minima, then all maxima; sizes beyond ``limit`` are clipped.

    Raises WireError(BAD_VALUES) for what is not finite.
    """
    ends = np.concatenate([-np.minimum(minimum, 0.0), np.maximum(maximum, 0.0)])
    if not np.isfinite(ends).all():
        raise WireError(reasons.BAD_VALUES, "the range of an activation is not finite")
    return _codes(ends, limit).tobytes()


def decode(payload: bytes, count: int, limit: float) -> tuple[Floats, Floats]:
    """(minimum, maximum), each (count,).

    Raises WireError(BAD_VALUES) for another length, and for what goes beyond ``limit``.
    """
    if len(payload) != 2 * count:
        raise WireError(reasons.BAD_VALUES, f"ranges of {len(payload)} bytes, {2 * count} were asked for")
    codes = np.frombuffer(payload, np.uint8)
    highest = int(_codes(np.array([limit]), limit)[0])
    if codes.max(initial=0) > highest:
        raise WireError(reasons.BAD_VALUES, f"a range goes beyond {limit:g}, the most that was asked for")
    sizes = np.where(codes == 0, 0.0, LARGEST * 2.0 ** ((codes.astype(np.float64) - _TOP) / _OCTAVE))
    return 0.0 - sizes[:count], sizes[count:]


def _codes(sizes: Floats, limit: float) -> NDArray[np.uint8]:
    clipped = np.minimum(sizes, min(limit, LARGEST))
    with np.errstate(divide="ignore"):
        steps = np.ceil(_TOP + _OCTAVE * np.log2(clipped / LARGEST) - _CLOSE)
    return np.where(clipped > 0, np.clip(steps, 1, _TOP), 0).astype(np.uint8)

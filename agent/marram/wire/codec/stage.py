"""The interface of a stage, and the plain stages that keep what they are given."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float32]


class Stage:
    """One step of a chain; by default it changes nothing and adds no bytes.

    A stage turns n values into ``length(n)`` values for the next stage and ``size(n)`` bytes of payload,
    both known from n alone, so that a decoder knows where every byte belongs before it reads one. The last
    stage of a chain leaves no values. All are float32, and decoding uses no operation whose result could
    depend on the machine: no sums of changing order, no fused operations.
    """

    ending = False

    def length(self, n: int) -> int:
        """How many values go on to the next stage."""
        return n

    def size(self, n: int) -> int:
        """How many bytes this stage adds to the payload."""
        return 0

    def encode(self, values: Vector, seed: int) -> tuple[Vector, bytes]:
        """float32[n] -> (float32[length(n)], size(n) bytes)."""
        return values, b""

    def decode(self, values: Vector, data: bytes, n: int, seed: int) -> Vector:
        """(float32[length(n)], size(n) bytes) -> float32[n]. Raises WireError(BAD_VALUES)."""
        return values


class Feedback(Stage):
    """``feedback``: what the later stages lose is kept, and added to the next vector.

    Error feedback (Seide et al. 2014; Karimireddy et al., arXiv 1901.09847). The chain itself does it, as
    only the chain sees the whole decode. No bytes.
    """


NOTHING: Vector = np.empty(0, np.float32)

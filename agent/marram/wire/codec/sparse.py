"""``topk(fraction)`` and ``randk(fraction)``: only k of n values go on, the others are zero.

k is fraction * n rounded to the nearest whole number (a half upwards), at least 1 (0 of 0). The k
values go to the next stage in rising order of their places. Neither scales the values up: both belong
behind ``feedback``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from marram.errors import WireError
from marram.wire import reasons
from marram.wire.codec import seed as seeds
from marram.wire.codec.stage import Stage, Vector


def kept(fraction: float, n: int) -> int:
    """How many of n values a fraction is."""
    return min(n, max(1, math.floor(fraction * n + 0.5)))


def _spread(values: Vector, places: np.ndarray[tuple[int, ...], np.dtype[np.intp]], n: int) -> Vector:
    result = np.zeros(n, np.float32)
    result[places] = values
    return result


@dataclass(frozen=True, slots=True)
class TopK(Stage):
    """The k values of the greatest magnitude (Aji and Heafield, arXiv 1704.05021).

    Bytes: the places, either n bits, the highest of a byte first, 1 for kept; or, where that is
    shorter, k numbers of ceil(log2(n)) bits, rising, each with its highest bit first, without gaps. The
    last byte is filled with zero bits.
    """

    fraction: float

    def length(self, n: int) -> int:
        return kept(self.fraction, n)

    def size(self, n: int) -> int:
        return -(-min(n, self.length(n) * _width(n)) // 8)

    def encode(self, values: Vector, seed: int) -> tuple[Vector, bytes]:
        n = len(values)
        order = np.argsort(-np.abs(values), kind="stable")
        places = np.sort(order[: self.length(n)])
        if self._as_map(n):
            bits = np.zeros(n, np.uint8)
            bits[places] = 1
        else:
            width = _width(n)
            bits = (places[:, None] >> np.arange(width - 1, -1, -1) & 1).astype(np.uint8).reshape(-1)
        return values[places], np.packbits(bits).tobytes()

    def decode(self, values: Vector, data: bytes, n: int, seed: int) -> Vector:
        k = self.length(n)
        bits = np.unpackbits(np.frombuffer(data, np.uint8))
        used = n if self._as_map(n) else k * _width(n)
        if bits[used:].any():
            raise WireError(reasons.BAD_VALUES, "topk: the filling bits are not zero")
        if self._as_map(n):
            places = np.flatnonzero(bits)
            if len(places) != k:
                raise WireError(reasons.BAD_VALUES, f"topk: {len(places)} places are marked, not {k}")
        else:
            weights = 1 << np.arange(_width(n) - 1, -1, -1, dtype=np.intp)
            places = bits[:used].reshape(k, -1).astype(np.intp) @ weights
            if places[-1] >= n or (np.diff(places) <= 0).any():
                raise WireError(reasons.BAD_VALUES, "topk: the places do not rise, or lie beyond the vector")
        return _spread(values, places, n)

    def _as_map(self, n: int) -> bool:
        return n <= self.length(n) * _width(n)


def _width(n: int) -> int:
    return max(1, (n - 1).bit_length())


@dataclass(frozen=True, slots=True)
class RandK(Stage):
    """k places that the seed chooses (Konecny et al., arXiv 1610.05492): stream ``randk``. No bytes."""

    fraction: float

    def length(self, n: int) -> int:
        return kept(self.fraction, n)

    def encode(self, values: Vector, seed: int) -> tuple[Vector, bytes]:
        return values[seeds.choice(seed, "randk", self.length(len(values)), len(values))], b""

    def decode(self, values: Vector, data: bytes, n: int, seed: int) -> Vector:
        return _spread(values, seeds.choice(seed, "randk", self.length(n), n), n)

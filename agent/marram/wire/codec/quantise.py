"""``quantise(bits)`` or ``quantise(bits, block)``: an ending; few bits a value and one scale a block.

The values are cut into blocks (256 values unless said otherwise, the last may be shorter). Each has a
scale, and each value is a code that names a level; a value decodes to level * scale, in float32.

Bytes: first the scales of all blocks, 2 bytes each, big-endian, the upper half of a float32
(bfloat16: the range of small deltas matters here, the precision does not); then the codes of all
values, ``bits`` each, the highest bit first, without gaps between blocks; the last byte is filled
with zero bits.

====  ===========================  ===============================================================
bits  level of code c              source
====  ===========================  ===============================================================
1     c = 0: 1, c = 1: -1          sign and least-squares scale: DRIVE, arXiv 2105.08339
2, 4  below, by ascending level    Lloyd-Max levels of a Gaussian (Max 1960): EDEN, arXiv 2108.08842
8     c - 128 (c = 0 is refused)   uniform; scale = greatest magnitude / 127, rounded up
====  ===========================  ===============================================================

Levels of 2 bits: -+0.45278, -+1.51042. Levels of 4 bits: -+0.12840, -+0.38805, -+0.65676, -+0.94234,
-+1.25623, -+1.61805, -+2.06902, -+2.73259, as float32 of these five decimals. An encoder may
choose codes and scale as it likes; this one divides by the block's root mean square, takes the nearest
level, then the scale that leaves the least squared error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marram.errors import WireError
from marram.wire import reasons
from marram.wire.codec.stage import NOTHING, Stage, Vector

_POSITIVE: Final = {
    2: (0.45278, 1.51042),
    4: (0.12840, 0.38805, 0.65676, 0.94234, 1.25623, 1.61805, 2.06902, 2.73259),
}
LEVELS: Final[dict[int, Vector]] = {
    1: np.array([1, -1], np.float32),
    **{
        bits: np.array([-x for x in reversed(half)] + list(half), np.float32)
        for bits, half in _POSITIVE.items()
    },
    8: np.arange(-128, 128, dtype=np.float32),
}


@dataclass(frozen=True, slots=True)
class Quantise(Stage):
    """bits: 1, 2, 4 or 8 a value. block: values that share a scale."""

    bits: int
    block: int = 256

    ending = True

    def length(self, n: int) -> int:
        return 0

    def size(self, n: int) -> int:
        return 2 * -(-n // self.block) + -(-n * self.bits // 8)

    def encode(self, values: Vector, seed: int) -> tuple[Vector, bytes]:
        n = len(values)
        blocks = np.zeros((-(-n // self.block), self.block), np.float32)
        blocks.reshape(-1)[:n] = values
        if self.bits == 8:
            scales = _bfloat16(np.abs(blocks).max(axis=1) / np.float32(127), up=True)
            codes = np.clip(np.rint(_divide(blocks, scales)), -127, 127).astype(np.int16) + 128
        else:
            counts = np.minimum(self.block, n - self.block * np.arange(len(blocks)))
            codes, exact = self._nearest(blocks, counts)
            scales = _bfloat16(exact, up=False)
        codes = codes.reshape(-1)[:n].astype(np.uint8)
        upper = (scales.view(np.uint32) >> 16).astype(">u2")
        return NOTHING, upper.tobytes() + _pack(codes, self.bits)

    def decode(self, values: Vector, data: bytes, n: int, seed: int) -> Vector:
        blocks = -(-n // self.block)
        upper = np.frombuffer(data, ">u2", blocks)
        scales = (upper.astype(np.uint32) << 16).view(np.float32)
        if (upper >= 0x7F80).any():
            raise WireError(reasons.BAD_VALUES, "quantise: a scale is negative, infinite or not a number")
        codes = _unpack(data[2 * blocks :], n, self.bits)
        if self.bits == 8 and not codes.all():
            raise WireError(reasons.BAD_VALUES, "quantise: code 0 has no meaning in 8 bits")
        return LEVELS[self.bits].take(codes) * np.repeat(scales, self.block)[:n]

    def _nearest(self, blocks: Vector, counts: NDArray[np.intp]) -> tuple[NDArray[np.intp], Vector]:
        """Codes and least-squares scales of float32[blocks, block] with ``counts`` values in each."""
        levels = LEVELS[self.bits]
        exact = blocks.astype(np.float64)
        if self.bits == 1:
            codes = np.signbit(blocks).astype(np.intp)
        else:
            rms = np.sqrt((exact**2).sum(axis=1) / counts)
            codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, _divide(exact, rms))
        chosen = levels[codes].astype(np.float64)
        chosen[np.arange(self.block) >= counts[:, None]] = 0
        scales = (exact * chosen).sum(axis=1) / (chosen**2).sum(axis=1)
        return codes, scales.astype(np.float32)


def _divide(blocks: NDArray[np.floating], scales: NDArray[np.floating]) -> NDArray[np.floating]:
    """Each block divided by its scale; zeros where the scale is 0."""
    scales = scales[:, None]
    result: NDArray[np.floating] = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)
    return result


def _bfloat16(values: Vector, *, up: bool) -> Vector:
    """Positive float32 rounded to the upper 16 bits, upwards or to the nearest, never to infinity."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = np.minimum((bits + (0xFFFF if up else 0x8000)) >> 16, 0x7F7F) << 16
    result: Vector = rounded.astype(np.uint32).view(np.float32)
    return result


def _pack(codes: NDArray[np.uint8], bits: int) -> bytes:
    if bits == 8:
        return codes.tobytes()
    places = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return np.packbits(codes[:, None] >> places & 1).tobytes()


def _unpack(data: bytes, n: int, bits: int) -> NDArray[np.uint8]:
    packed = np.frombuffer(data, np.uint8)
    places = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    codes = (packed[:, None] >> places & np.uint8((1 << bits) - 1)).reshape(-1)
    if codes[n:].any():
        raise WireError(reasons.BAD_VALUES, "quantise: the filling bits are not zero")
    return codes[:n]

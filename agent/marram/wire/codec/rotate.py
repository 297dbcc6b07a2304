"""``rotate(block)``: a randomised Hadamard rotation, block by block.

It spreads every value over its block, so that the values of a block look like draws from one Gaussian
and few bits a value serve all of them alike (Suresh et al., arXiv 1611.00429; DRIVE, arXiv 2105.08339).

Encoding: the n values are padded with zeros to whole blocks, multiplied by the signs of stream ``rotate``,
and each block is multiplied by the orthonormal Hadamard matrix of Sylvester's order: for h = 1, 2, 4
... block/2, every pair of places (i, i + h) with i & h = 0 becomes (a + b, a - b); then all are multiplied
by 1/sqrt(block), rounded to float32. Decoding: the same butterflies and factor, then the signs, then
the padding is cut off. No bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from marram.wire.codec import seed as seeds
from marram.wire.codec.stage import Stage, Vector


@dataclass(frozen=True, slots=True)
class Rotate(Stage):
    """block: values a block, a power of two."""

    block: int

    def length(self, n: int) -> int:
        return -(-n // self.block) * self.block

    def encode(self, values: Vector, seed: int) -> tuple[Vector, bytes]:
        padded = np.zeros(self.length(len(values)), np.float32)
        padded[: len(values)] = values
        return _hadamard(padded * seeds.signs(seed, "rotate", len(padded)), self.block), b""

    def decode(self, values: Vector, data: bytes, n: int, seed: int) -> Vector:
        return (_hadamard(values, self.block) * seeds.signs(seed, "rotate", len(values)))[:n]


def _hadamard(values: Vector, block: int) -> Vector:
    """float32[m * block] -> the same shape, every block transformed; orthonormal, its own inverse."""
    # Blocks along the last axis: every butterfly then runs over contiguous memory.
    rows = values.reshape(-1, block).T.copy()
    other = np.empty_like(rows)
    half = 1
    while half < block:
        pairs, results = (array.reshape(block // (2 * half), 2, half, -1) for array in (rows, other))
        np.add(pairs[:, 0], pairs[:, 1], out=results[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=results[:, 1])
        rows, other = other, rows
        half *= 2
    rows *= np.float32(1 / math.sqrt(block))
    return np.ascontiguousarray(rows.T).reshape(-1)

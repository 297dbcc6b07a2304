"""Randomness that both sides compute alike from a seed that both know: SHAKE-128 (FIPS 202).

A stream is SHAKE-128 of the ASCII text ``marram/<label>/`` followed by the seed as 8 bytes, big-endian.
It needs no library beyond a hash function and does not change with a version of numpy.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_SIGNS = np.array([1, -1], np.float32)


def stream(seed: int, label: str, count: int) -> bytes:
    """The first ``count`` bytes of the stream of that label. seed: 0 to 2^64 - 1."""
    return hashlib.shake_128(f"marram/{label}/".encode() + seed.to_bytes(8, "big")).digest(count)


def signs(seed: int, label: str, count: int) -> NDArray[np.float32]:
    """float32[count] of +1 and -1: a bit of the stream each, the highest of a byte first, 1 for -1."""
    data = np.frombuffer(stream(seed, label, -(-count // 8)), np.uint8)
    return _SIGNS.take(np.unpackbits(data, count=count))


def choice(seed: int, label: str, count: int, n: int) -> NDArray[np.intp]:
    """``count`` different places of 0 to n - 1, rising: those of the smallest keys.

    Place i has bytes 4i to 4i + 3 of the stream, big-endian, as its key; of equal keys the
    earlier is the smaller.
    """
    keys = np.frombuffer(stream(seed, label, 4 * n), ">u4")
    return np.sort(np.argsort(keys, kind="stable")[:count])


def device_seed(seed: int, device: str) -> int:
    """The seed of one device in a round whose offer has ``seed``: 53 bits.

    The upper 53 of the first 64 bits of sha256 over the seed as 8 bytes, big-endian, and the
    device's name in UTF-8.
    """
    digest = hashlib.sha256(seed.to_bytes(8, "big") + device.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11

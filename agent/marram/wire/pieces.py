"""Content-defined pieces of a file, so that what a device has already is not fetched again.

A boundary stands where a rolling hash of the last 32 bytes has its top bits zero: bytes put in or taken out
move boundaries near them only (FastCDC's gear hash: Xia et al., USENIX ATC 2016). The cloud writes a file's
index once; a device cuts what it holds by the same rule, looks for pieces of equal sha256, and fetches
the ranges that are left. An index names pieces, it proves nothing: the whole file is checked in the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from marram.errors import WireError
from marram.wire import reasons

_LEAST, _MEAN_BITS, _MOST = 1 << 10, 12, 1 << 14
_WINDOW_DOUBLINGS = 5
_GEAR = np.frombuffer(
    b"".join(hashlib.sha256(b"marram gear %d" % value).digest()[:4] for value in range(256)), "<u4"
)
_BLOCK = 1 << 20

Length = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
Short = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class Index(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The pieces of a file in their order. lengths: bytes each. digests: first 16 bytes of their sha256."""

    lengths: tuple[Length, ...]
    digests: tuple[Short, ...]

    @property
    def size(self) -> int:
        """Of the whole file, in bytes."""
        return sum(self.lengths)


def cut(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """(offset, length) of each piece, in order; together they are all of ``data``."""
    at, size = 0, len(data)
    for boundary in _boundaries(data):
        while boundary - at > _MOST:
            yield at, _MOST
            at += _MOST
        if boundary - at >= _LEAST:
            yield at, boundary - at
            at = boundary
    while size - at > _MOST:
        yield at, _MOST
        at += _MOST
    if size > at:
        yield at, size - at


def short(piece: bytes | memoryview) -> bytes:
    """The name of a piece: 16 bytes."""
    return hashlib.sha256(piece).digest()[:16]


def index(data: bytes) -> bytes:
    """The encoded index of a file's content (msgpack of ``Index``)."""
    view = memoryview(data)
    pieces = list(cut(view))
    lengths = tuple(length for _, length in pieces)
    digests = tuple(short(view[offset : offset + length]) for offset, length in pieces)
    return msgspec.msgpack.encode(Index(lengths, digests))


def read_index(data: bytes, size: int) -> Index:
    """Raises WireError(MALFORMED) unless ``data`` is an index of a file of ``size`` bytes."""
    try:
        found = msgspec.msgpack.decode(data, type=Index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(reasons.MALFORMED, f"is no index of pieces: {error}") from error
    if len(found.lengths) != len(found.digests) or found.size != size:
        raise WireError(reasons.MALFORMED, f"is an index of {found.size} bytes, the file has {size}")
    return found


def _boundaries(data: bytes | memoryview) -> Iterator[int]:
    """Offsets behind a byte where the hash of the last 32 bytes has its top bits zero, rising."""
    bytes_ = np.frombuffer(data, np.uint8)
    overlap = (1 << _WINDOW_DOUBLINGS) - 1
    for start in range(0, len(bytes_), _BLOCK):
        from_ = max(0, start - overlap)
        rolled = _roll(bytes_[from_ : start + _BLOCK])[start - from_ :]
        # The top bits see all 32 bytes, the low ones only the last.
        for offset in np.flatnonzero(rolled >> np.uint32(32 - _MEAN_BITS) == 0).tolist():
            yield start + offset + 1


def _roll(bytes_: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The gear hash at each byte: sum of GEAR[byte[i - k]] << k for k of 0 to 31, by doubling."""
    rolled = _GEAR[bytes_]
    for step in (1 << doubling for doubling in range(_WINDOW_DOUBLINGS)):
        before = rolled
        rolled = before.copy()
        rolled[step:] += before[:-step] << np.uint32(step)
    return rolled

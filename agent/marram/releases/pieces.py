"""A file on its way: what is there of it, whatever happened before, and what is still to be fetched.

The file stands at its final length from the start. After a power cut its pieces are hashed again: what is
right is kept, so no bookkeeping can disagree with the content.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from marram.releases.transport import Range
from marram.wire import pieces
from marram.wire.pieces import Index

_SYNC = 4 << 20


class Spool:
    """One target's file. index: its pieces; None when nobody knows them, then it is fetched as a whole.

    Raises OSError when the disk is full: the whole length is claimed before anything is fetched.
    """

    def __init__(self, path: Path, size: int, index: Index | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._size = path, size
        self._pieces: dict[bytes, list[Range]] = {}
        offset = 0
        for length, digest in zip(index.lengths, index.digests, strict=True) if index else ():
            self._pieces.setdefault(digest, []).append((offset, length))
            offset += length
        self._whole = index is None
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(self._file, size)
            if size:
                os.posix_fallocate(self._file, 0, size)
        except OSError as error:
            self.remove()
            raise OSError(
                error.errno, f"cannot be claimed: {os.strerror(error.errno or 0)}", str(path)
            ) from error
        self._missing: set[Range] = set()
        self.fetched = self.reused = self._unsynced = 0
        self._look()
        self.resumed = size - sum(length for _, length in self._missing)

    @property
    def missing(self) -> list[Range]:
        """What is still to be fetched, in order."""
        return sorted(self._missing)

    def reuse(self, held: Sequence[Path]) -> None:
        """Copy the pieces that are in files of this device."""
        for path in held:
            if not self._missing or self._whole:
                return
            wanted = {
                digest: places
                for digest, places in self._pieces.items()
                if not self._missing.isdisjoint(places)
            }
            try:
                data = memoryview(path.read_bytes())
            except OSError:
                continue
            for offset, length in pieces.cut(data):
                piece = data[offset : offset + length]
                for place in wanted.get(pieces.short(piece), ()):
                    if place in self._missing and place[1] == length:
                        self._put(place[0], piece)
                        self._missing.remove(place)
                        self.reused += length

    def write(self, offset: int, data: bytes) -> None:
        """Take bytes that came; what lies beyond the file is left out."""
        self._put(offset, memoryview(data)[: max(0, self._size - offset)])
        self.fetched += len(data)

    def complete(self) -> bool:
        """Whether every piece is what the index says. Without an index: whether all bytes were written."""
        os.fsync(self._file)
        if self._whole:
            self._missing.clear()
        else:
            self._look()
        return not self._missing

    def close(self) -> None:
        os.close(self._file)

    def remove(self) -> None:
        """Give it up, and its place on the disk."""
        os.close(self._file)
        self._path.unlink(missing_ok=True)

    def _put(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written
            self._unsynced += written
        if self._unsynced >= _SYNC:
            os.fsync(self._file)
            self._unsynced = 0

    def _look(self) -> None:
        """Hash what is there."""
        if self._whole:
            self._missing = {(0, self._size)} if self._size else set()
            return
        self._missing = {
            (offset, length)
            for digest, places in self._pieces.items()
            for offset, length in places
            if pieces.short(os.pread(self._file, length, offset)) != digest
        }

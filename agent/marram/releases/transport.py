"""How files of a release repository come to the device: one interface, whatever the network.

A file is named by a base (``metadata/``, or ``https://host/metadata/``) and a path below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from marram.errors import MarramError

Range = tuple[int, int]
"""(offset, length) in bytes; length above 0."""


class TransportError(MarramError):
    """The file did not come: the network, the server, or too slowly."""


class MissingFileError(TransportError):
    """The repository has no such file. status: the HTTP status that says so."""

    def __init__(self, text: str, status: int = 404) -> None:
        super().__init__(text)
        self.status = status


class Transport(Protocol):
    """One way to the repository."""

    def whole(self, file: str, most: int) -> Iterator[bytes]:
        """The bytes of a file in order; it ends by itself after ``most`` + 1 bytes. Raises TransportError."""
        ...

    def ranges(self, file: str, ranges: Sequence[Range], size: int) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) that together cover the ranges of a file of ``size`` bytes, in any order.

        What comes may reach beyond a range, never beyond the file. Raises TransportError.
        """
        ...


def joined(ranges: Sequence[Range], gap: int) -> list[Range]:
    """The same ranges in order, those that are less than ``gap`` bytes apart as one."""
    found: list[Range] = []
    for offset, length in sorted(ranges):
        if found and offset - sum(found[-1]) <= gap:
            start = found[-1][0]
            found[-1] = start, max(sum(found[-1]), offset + length) - start
        else:
            found.append((offset, length))
    return found

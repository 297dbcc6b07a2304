"""Bytes as they come in, cut into lines, each decoded to a message for a ``FieldMapper``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

Format = Literal["json", "numbers"]
LONGEST = 1 << 20
_SEPARATOR = re.compile(r"[,;\s]+")


class TooLongError(ValueError):
    """There is no end to a line."""


class Lines:
    """Cuts and decodes. format: json, or numbers with commas, semicolons or blanks between them (the first is
    the field "0"). malformed: told why a line is no message. longest: bytes of a line.
    """

    def __init__(self, format: Format, malformed: Callable[[str], None], longest: int = LONGEST) -> None:
        self._decode = msgspec.json.decode if format == "json" else _numbers
        self._what = "JSON line" if format == "json" else "line of numbers"
        self._malformed, self._longest = malformed, longest
        self._rest = b""

    def messages(self, block: bytes) -> Iterator[Any]:
        """The messages that end in this block. Raises TooLongError, and forgets that line's begin."""
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            yield from self._message(line)
        if len(self._rest) > self._longest:
            self._rest = b""
            raise TooLongError(f"a line is longer than {self._longest} bytes")

    def end(self) -> Iterator[Any]:
        """What came last is a line without its end."""
        line, self._rest = self._rest, b""
        return self._message(line)

    def _message(self, line: bytes) -> Iterator[Any]:
        if line.strip():
            try:
                yield self._decode(line)
            except (ValueError, RecursionError) as error:
                self._malformed(f"not a {self._what}: {error}")


def _numbers(line: bytes) -> dict[str, float]:
    parts = [part for part in _SEPARATOR.split(line.decode("ascii").strip()) if part]
    return {str(index): float(part) for index, part in enumerate(parts)}

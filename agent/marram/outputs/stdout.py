"""Predictions as JSON lines on standard output."""

from __future__ import annotations

import sys
from typing import BinaryIO

import msgspec

from marram.errors import OutputError
from marram.outputs.output import OutputConfig


class StdoutConfig(OutputConfig, frozen=True, kw_only=True, tag="stdout"):
    """JSON lines on standard output."""


class StdoutOutput:
    """Writes one JSON line a record and flushes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, record: object) -> None:
        """Write anything that msgspec can encode. Raises OutputError when the reader went away."""
        try:
            self._stream.write(msgspec.json.encode(record) + b"\n")
            self._stream.flush()
        except OSError as error:
            raise OutputError(f"standard output cannot be written: {error}") from error


def open(config: StdoutConfig, context: object) -> StdoutOutput:
    """Open standard output."""
    return StdoutOutput(sys.stdout.buffer)

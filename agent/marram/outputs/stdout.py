"""Predictions as JSON lines on standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import BinaryIO

import msgspec

from marram.errors import OutputError
from marram.inference.prediction import Prediction
from marram.outputs.output import OutputConfig, OutputContext


class StdoutConfig(OutputConfig, frozen=True, kw_only=True, tag="stdout"):
    """JSON lines on standard output."""


class StdoutOutput:
    """Writes one JSON line a prediction and flushes after each block."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._encoder = msgspec.json.Encoder()

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Raises OutputError when the reader went away."""
        try:
            self._stream.write(self._encoder.encode_lines(predictions))
            self._stream.flush()
        except OSError as error:
            raise OutputError(f"standard output cannot be written: {error}") from error

    def close(self) -> None:
        """Nothing is held open."""


def open(config: StdoutConfig, context: OutputContext) -> StdoutOutput:
    """Open standard output."""
    return StdoutOutput(sys.stdout.buffer)

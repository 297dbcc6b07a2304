"""Predictions as JSON lines in a file that is rotated by size."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from marram.config.values import FilePath, Size
from marram.errors import OutputError
from marram.inference.prediction import Prediction
from marram.outputs.output import OutputConfig, OutputContext


class JsonlConfig(OutputConfig, frozen=True, kw_only=True, tag="jsonl"):
    """JSON lines in a file.

    path: the file; its folder is made.
    max_bytes: a larger file becomes path.1, the one before path.2 and so on.
    keep: how many such older files are kept.
    """

    path: FilePath
    max_bytes: Annotated[Size, msgspec.Meta(gt=0)] = 16 * 1024 * 1024
    keep: Annotated[int, msgspec.Meta(ge=0, le=100)] = 2


class JsonlOutput:
    """Appends one JSON line a prediction; a block is one write."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self._path, self._max_bytes, self._keep = path, max_bytes, keep
        self._encoder = msgspec.json.Encoder()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise OutputError(f"{path}: cannot be opened: {error.strerror}") from error

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Raises OutputError when the disk is full or gone; the predictions of this block are lost here."""
        data = self._encoder.encode_lines(predictions)
        try:
            if self._file.closed or (self._size and self._size + len(data) > self._max_bytes):
                self._rotate()
            self._append(data)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, data: bytes) -> None:
        """All of the data or nothing: half a line would spoil the next one too."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(data)

    def _rotate(self) -> None:
        """The file becomes the first older one; when that fails the next write tries again."""
        if self._file.closed:
            self._open()
            return
        self._file.close()
        names = [
            self._path,
            *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._keep + 1)),
        ]
        names[-1].unlink(missing_ok=True)
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if newer.exists():
                newer.replace(older)
        self._open()

    def _open(self) -> None:
        self._file = self._path.open("ab", buffering=0)
        self._size = self._file.tell()


def open(config: JsonlConfig, context: OutputContext) -> JsonlOutput:
    """Open the file for appending. Raises OutputError."""
    return JsonlOutput(config.path, config.max_bytes, config.keep)

"""Frames between the daemon and its children: four bytes of length, then msgpack.

Both sides are Marram's, but a child that opened a hostile file is not believed: what it says is decoded
strictly and bounded.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import IO, TypeVar

import msgspec

from marram.errors import MarramError

Frame = TypeVar("Frame")

_MAX = 64 << 20


class FrameError(MarramError):
    """The other side is gone, or what it says is no frame."""


def frame_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """A child's standard input and output, from now on for frames alone.

    What a library prints goes to standard error: between frames it would make them unreadable.
    """
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, out


def write_frame(stream: IO[bytes], frame: msgspec.Struct) -> None:
    """Raises FrameError when nobody reads."""
    data = msgspec.msgpack.encode(frame)
    try:
        stream.write(struct.pack(">I", len(data)) + data)
        stream.flush()
    except (OSError, ValueError) as error:
        raise FrameError("the other side of the pipe is gone") from error


def read_frame(stream: IO[bytes], kind: type[Frame]) -> Frame | None:
    """The next frame, None at the end. Raises FrameError."""
    head = stream.read(4)
    if not head:
        return None
    size = int.from_bytes(head, "big")
    data = stream.read(size) if len(head) == 4 and size <= _MAX else b""
    if len(data) != size or len(head) != 4:
        raise FrameError("a frame was cut short")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"a frame cannot be read: {error}") from error

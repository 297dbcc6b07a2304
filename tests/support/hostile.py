"""Bad bytes by the hundred: what a broken or hostile client may put on a topic; the same in every run."""

from __future__ import annotations

import random
from collections.abc import Iterator

from marram.wire import cbor, chunks

_CBOR = (
    b"",
    b"\xff",
    b"\x1b" + b"\xff" * 8,
    b"\x9f\x01\x02\xff",
    b"\x5f\x41a\xff",
    b"\xa2\x01\x01\x01\x02",
    b"\xbf\x01\x02\xff",
    b"\x9b\x7f" + b"\xff" * 7,
    b"\x5b\x7f" + b"\xff" * 7 + b"short",
    b"\xbb\x00\x00\x00\x01" + b"\x00" * 4,
    b"\x81" * 5000,
    b"\xc1" * 5000 + b"\x00",
    b"\xa1\x00" * 5000 + b"\x00",
    b"\xd2\x84\x40\xa0\x40\x40",
    b"\xd2\x80",
    b"\x18\x01",
    b"\xf9\x7c\x00",
    b"\x61\xff",
    b"\xf8\x18",
    b"{}",
    b"null",
    b"[" * 5000,
    b"\x00" * 4096,
)


def garbage() -> list[bytes]:
    """Bytes that are no message at all."""
    source = random.Random(7)
    return [*_CBOR, *(source.randbytes(source.randint(1, 300)) for _ in range(60))]


def frames() -> list[bytes]:
    """Chunks that contradict themselves, or what their kind allows."""
    name = bytes(16)
    return [
        cbor.encode(value)
        for value in (
            [],
            [name],
            [name, 0, 1, 5, b"hello", 1],
            [name, 0, 1, 5, "hello"],
            [name, True, 1, 5, b"hello"],
            [name, 0, 1, 5, None],
            [b"short", 0, 1, 5, b"hello"],
            [name, 0, 0, 5, b"hello"],
            [name, 1, 1, 5, b"hello"],
            [name, -1, 1, 5, b"hello"],
            [name, 0, 1 << 40, 1 << 41, b"hello"],
            [name, 0, 2, 1, b"hello"],
            [name, 0, 1, 1 << 62, b"hello"],
            [name, 0, 1, (64 << 20) + 1, b"hello"],
            [name, 0, 1, 5, b"hello"],
            [name, 0, 1, 0, b""],
            {"transfer": name},
        )
    ] + [cbor.encode([name, 0, 2, 2 << 20, bytes(1 << 20)])]


def spoilt(message: bytes, count: int) -> Iterator[bytes]:
    """A real message cut short, made longer, and with single bits turned over."""
    source = random.Random(11)
    for _ in range(count):
        kind = source.randrange(4)
        if kind == 0:
            yield message[: source.randrange(len(message))]
        elif kind == 1:
            yield message + source.randbytes(source.randint(1, 20))
        else:
            place = source.randrange(len(message))
            yield message[:place] + bytes([message[place] ^ 1 << source.randrange(8)]) + message[place + 1 :]


def whole(frames_: list[bytes]) -> bytes | None:
    """The message that these chunks make."""
    assembler = chunks.Assembler(64 << 20, 4)
    found = None
    for frame in frames_:
        found = assembler.add(frame) or found
    return found

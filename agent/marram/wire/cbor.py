"""CBOR (RFC 8949): the small, strict part of it that messages need.

Written here and not taken from a library, because everything that is read comes from the network:
there is one encoding of a value that is written (section 4.2.1, core deterministic), and what is read
must be of definite length, without duplicate keys, without tags that the caller did not ask for, within
limits of depth and number. The types are None, bool, int (64 bit and sign), float, bytes, str, list,
dict with int or str keys, and ``Tagged``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from marram.errors import WireError
from marram.wire import reasons

MessageType = TypeVar("MessageType", bound=msgspec.Struct)

_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _OTHER = range(8)
_FLOATS = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}
_SIMPLE: dict[int, bool | None] = {20: False, 21: True, 22: None}


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value under a CBOR tag (RFC 8949, section 3.4)."""

    tag: int
    value: object


def encode(value: object) -> bytes:
    """The deterministic encoding of ``value``: shortest heads and floats, keys in the order of their bytes.

    Raises TypeError for a type that messages do not use, ValueError for an integer beyond 64 bits.
    """
    out = bytearray()
    _write(out, value)
    return bytes(out)


def decode(
    data: bytes, max_depth: int = 16, max_items: int = 65536, tags: Collection[int] = frozenset()
) -> object:
    """The one value that ``data`` holds, all of it. Arrays become lists, tags in ``tags`` ``Tagged``.

    max_depth: how deep arrays, maps and tags may nest. max_items: how many values there may be in all.
    Map keys need not be in order, floats may have any width (NaN and infinity are values like others),
    lengths and integers must have their shortest form.
    Raises WireError(MALFORMED) for anything else.
    """
    reader = _Reader(data, max_depth, max_items, tags)
    value = reader.value(0)
    if reader.at != len(data):
        raise _malformed(f"{len(data) - reader.at} bytes follow the value")
    return value


def pack(message: msgspec.Struct) -> bytes:
    """A struct of ``marram.wire.messages`` as a CBOR map, its keys the names of the fields.

    Names cost some 60 bytes a message and let a later version add fields with defaults without a
    table of numbers; a field that is None is sent as null.
    """
    return encode(msgspec.to_builtins(message, builtin_types=(bytes,)))


def unpack(data: bytes, type: type[MessageType]) -> MessageType:
    """The message of that type in ``data``.

    Raises WireError(MALFORMED) for bad CBOR, unknown or missing fields, wrong types, values out of range.
    """
    value = decode(data)
    try:
        return msgspec.convert(value, type, builtin_types=(bytes,))
    except (msgspec.ValidationError, RecursionError) as error:
        raise _malformed(f"not a {type.__name__}: {error!s:.200}") from None


def _malformed(what: str) -> WireError:
    return WireError(reasons.MALFORMED, f"not a message: {what}")


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major << 5 | argument,))
    for more, (format_, limit) in enumerate(
        (("B", 1 << 8), (">H", 1 << 16), (">I", 1 << 32), (">Q", 1 << 64))
    ):
        if argument < limit:
            return bytes((major << 5 | 24 + more,)) + struct.pack(format_, argument)
    raise ValueError(f"{argument} does not fit the 64 bits of a CBOR head")


def _float(value: float) -> bytes:
    if math.isnan(value):
        return b"\xf9\x7e\x00"
    for additional, (format_, _) in _FLOATS.items():
        try:
            data = struct.pack(format_, value)
        except OverflowError:
            continue
        if struct.unpack(format_, data)[0] == value:
            return bytes((_OTHER << 5 | additional,)) + data
    raise AssertionError("a float is always a double")


def _write(out: bytearray, value: object) -> None:
    match value:
        case None | bool():
            out += {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
        case int():
            out += _head(_UINT, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
        case float():
            out += _float(value)
        case bytes() | bytearray() | memoryview():
            out += _head(_BYTES, len(value))
            out += value
        case str():
            text = value.encode()
            out += _head(_TEXT, len(text)) + text
        case list() | tuple():
            out += _head(_ARRAY, len(value))
            for item in value:
                _write(out, item)
        case dict():
            out += _head(_MAP, len(value))
            if any(type(key) not in (int, str) for key in value):
                raise TypeError("map keys are integers or text")
            for key, item in sorted((encode(key), item) for key, item in value.items()):
                out += key
                _write(out, item)
        case Tagged():
            out += _head(_TAG, value.tag)
            _write(out, value.value)
        case _:
            raise TypeError(f"{type(value).__name__} has no place in a message")


class _Reader:
    """Reads one value after the other from ``data``; ``at`` is the next byte's place."""

    def __init__(self, data: bytes, max_depth: int, max_items: int, tags: Collection[int]) -> None:
        self.data = data
        self.at = 0
        self.max_depth = max_depth
        self.items_left = max_items
        self.tags = tags

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise _malformed(
                f"cut off: byte {self.at} announces {count} bytes, {len(self.data) - self.at} are there"
            )
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def argument(self, additional: int) -> int:
        if additional < 24:
            return additional
        if additional > 27:
            kind = "indefinite length" if additional == 31 else f"reserved head {additional}"
            raise _malformed(f"{kind} at byte {self.at - 1}")
        width = 1 << (additional - 24)
        argument = int.from_bytes(self.take(width), "big")
        if argument < 24 or argument < 1 << (4 * width if width > 1 else 0):
            raise _malformed(f"a longer head than needed before byte {self.at}")
        return argument

    def value(self, depth: int) -> object:
        if depth > self.max_depth:
            raise _malformed(f"nested deeper than {self.max_depth}")
        if self.items_left == 0:
            raise _malformed("more values than a message may have")
        self.items_left -= 1
        head = self.take(1)[0]
        major, additional = head >> 5, head & 31
        if major == _OTHER:
            return self.other(additional)
        argument = self.argument(additional)
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return self.take(argument)
            case 3:
                return self.text(argument)
            case 4:
                return [self.value(depth + 1) for _ in range(argument)]
            case 5:
                return self.map(argument, depth)
        if argument not in self.tags:
            raise _malformed(f"tag {argument} is not expected here")
        return Tagged(argument, self.value(depth + 1))

    def other(self, additional: int) -> bool | float | None:
        if additional in _FLOATS:
            format_, width = _FLOATS[additional]
            number: float = struct.unpack(format_, self.take(width))[0]
            return number
        if additional not in _SIMPLE:
            raise _malformed(f"simple value {additional} at byte {self.at - 1}")
        return _SIMPLE[additional]

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise _malformed(f"text before byte {self.at} is not UTF-8") from None

    def map(self, length: int, depth: int) -> dict[int | str, object]:
        result: dict[int | str, object] = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if not isinstance(key, int | str) or isinstance(key, bool):
                raise _malformed(f"a map key before byte {self.at} is neither integer nor text")
            if key in result:
                raise _malformed(f"the map key {key!r:.50} is there twice")
            result[key] = self.value(depth + 1)
        return result

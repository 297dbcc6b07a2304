"""Values with a notation of their own: durations, sizes, paths, broker addresses.

Each is an ordinary type for the type checker and for msgspec's JSON Schema; its ``Reader`` rides along in
the type's metadata and tells the loader how to read it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from marram.link.broker import read_broker
from marram.link.server import EXPECTED, read_server

Plain = str | int | float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file stands: relative paths begin at ``folder``; ``check_files`` looks whether they exist."""

    folder: Path
    check_files: bool = True


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one notation. ``expected`` completes "expected ..."; ``read`` raises ValueError.

    A ValueError without words means that the value is not in the notation; one with words is a problem
    of its own, and they are shown as they are. ``write``: the shortest way to write a value, where it is
    not simply its text.
    """

    expected: str
    read: Callable[[Plain, Place], object]
    write: Callable[[Any], str] | None = None


_DURATION = re.compile(r"^(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|min|h|d)$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_TOPIC = 65535
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$")
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


_LONGEST = 36525 * 86400.0
_LARGEST = (1 << 63) - 1


def read_duration(value: Plain, place: Place | None = None) -> float:
    """Seconds out of ``"30s"``, ``"5m"``, ``"2h"``, ``"7d"``, ``"250ms"`` or a plain number of seconds."""
    if isinstance(value, str):
        match = _DURATION.match(value.strip())
        if not match:
            raise ValueError
        seconds = float(match[1]) * _SECONDS[match[2]]
    elif not math.isfinite(value) or value < 0:
        raise ValueError
    else:
        seconds = float(value)
    if seconds > _LONGEST:
        raise ValueError("expected a duration of at most 36525d (a hundred years), found a longer one")
    return seconds


def read_size(value: Plain, place: Place | None = None) -> int:
    """Bytes out of ``"64MiB"``, ``"10MB"`` or a plain number of bytes."""
    if isinstance(value, str):
        match = _SIZE.match(value.strip())
        if not match:
            raise ValueError
        size: float = float(match[1]) * _BYTES[match[2]]
    elif isinstance(value, float) or value < 0:
        raise ValueError
    else:
        size = value
    if size > _LARGEST:
        raise ValueError("expected a size of less than 2^63 bytes, found a larger one")
    return int(size)


def write_duration(value: float) -> str:
    """Seconds in the largest unit that divides them: ``"2h"``, ``"1500ms"``; "0s" for none."""
    for unit in ("d", "h", "m", "s", "ms"):
        count = value / _SECONDS[unit]
        if count >= 1 and count == int(count) and int(count) * _SECONDS[unit] == value:
            return f"{int(count)}{unit}"
    # A plain number may have an exponent, one with a unit may not.
    return repr(value) if value else "0s"


def write_size(value: int) -> str:
    """Bytes in the largest binary unit that divides them: ``"64MiB"``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % _BYTES[unit] == 0:
            return f"{value // _BYTES[unit]}{unit}"
    return str(value)


def _path(exists: Callable[[Path], bool] | None, kind: str) -> Reader:
    def read(value: Plain, place: Place) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError
        try:
            path = place.folder / Path(value).expanduser()
        except RuntimeError as error:
            raise ValueError(f"there is no home folder for {value}: write the whole path") from error
        if exists is not None and place.check_files:
            try:
                found = exists(path)
            except OSError as error:
                raise ValueError(f"cannot look at the {kind} {path}: {error.strerror}") from error
            if not found:
                wrong = f"{path} is no {kind}" if path.exists() else f"the {kind} {path} does not exist"
                raise ValueError(wrong)
        return path

    return Reader(f"the path of a {kind}", read)


def _broker(value: Plain, place: Place) -> str:
    if not isinstance(value, str):
        raise ValueError
    read_broker(value)
    return value


def _enrolment(value: Plain, place: Place) -> str:
    if not isinstance(value, str):
        raise ValueError
    return read_server(value)


def _http(value: Plain, place: Place) -> str:
    if not isinstance(value, str):
        raise ValueError
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError
    return value


def _topic(wildcards: bool) -> Callable[[Plain, Place], str]:
    """Reads an MQTT topic (MQTT 5, section 4.7), the levels + and # only where ``wildcards`` allows."""

    def read(value: Plain, place: Place) -> str:
        if not isinstance(value, str) or not value or "\0" in value or len(value.encode()) > _LONGEST_TOPIC:
            raise ValueError
        if not wildcards and ("+" in value or "#" in value):
            raise ValueError("expected a topic without the wildcards + and #: messages are published on it")
        *levels, last = value.split("/")
        if "#" in "".join(levels) or any(
            len(level) > 1 for level in (*levels, last) if set(level) & set("+#")
        ):
            raise ValueError("expected + to stand for a whole level and # for the last one, as in a/+/b/#")
        return value

    return read


def _meta(reader: Reader, schema: dict[str, Any]) -> msgspec.Meta:
    return msgspec.Meta(extra={"reader": reader}, extra_json_schema=schema)


_PATH_SCHEMA = {"type": "string", "minLength": 1}

Duration = Annotated[
    float,
    _meta(
        Reader("a duration such as 30s, 5m, 2h, 7d or a number of seconds", read_duration, write_duration),
        {
            "pattern": _DURATION.pattern,
            "examples": ["30s", "5m", "2h", "7d", 60],
        },
    ),
]
"""Seconds."""

Size = Annotated[
    int,
    _meta(
        Reader("a size such as 64MiB, 10MB or a number of bytes", read_size, write_size),
        {"pattern": _SIZE.pattern, "examples": ["64MiB", "10MB", 65536]},
    ),
]
"""Bytes."""

FilePath = Annotated[Path, _meta(_path(None, "file"), _PATH_SCHEMA)]
"""A file that need not exist; relative to the folder of the YAML file."""

ExistingFile = Annotated[Path, _meta(_path(Path.is_file, "file"), _PATH_SCHEMA)]
"""A file that must be there when the configuration is loaded."""

FolderPath = Annotated[Path, _meta(_path(None, "folder"), _PATH_SCHEMA)]
"""A folder that need not exist."""

ExistingFolder = Annotated[Path, _meta(_path(Path.is_dir, "folder"), _PATH_SCHEMA)]
"""A folder that must be there when the configuration is loaded."""

BrokerUrl = Annotated[
    str,
    _meta(
        Reader('a broker address such as "mqtt://host:1883" or "mqtts://host:8883"', _broker),
        {"pattern": "^mqtts?://", "examples": ["mqtt://host:1883", "mqtts://host:8883"]},
    ),
]
"""The address of an MQTT broker."""

EnrolmentUrl = Annotated[
    str,
    _meta(Reader(EXPECTED, _enrolment), {"pattern": "^https://", "examples": ["https://host:8443"]}),
]
"""The address of an enrolment server."""

HttpUrl = Annotated[
    str,
    _meta(
        Reader('an address such as "https://host/folder"', _http),
        {"pattern": "^https?://", "examples": ["https://releases.example.com/fleet"]},
    ),
]
"""The address of a folder on a web server."""

Topic = Annotated[
    str,
    _meta(
        Reader("a topic such as plant/line3/out", _topic(wildcards=False)),
        {"minLength": 1, "examples": ["plant/line3/out"]},
    ),
]
"""An MQTT topic to publish on."""

TopicFilter = Annotated[
    str,
    _meta(
        Reader("a topic or topic filter such as plant/+/vibration or plant/#", _topic(wildcards=True)),
        {"minLength": 1, "examples": ["plant/+/vibration", "plant/#"]},
    ),
]
"""MQTT topics to subscribe to."""

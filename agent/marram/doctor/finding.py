"""What a check says."""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Severity(IntEnum):
    """How bad it is. NOTE: worth knowing. WARNING: works, not as it should. ERROR: does not work."""

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. name: what. found: what it is like. todo: what to do, "" for nothing."""

    severity: Severity
    name: str
    found: str
    todo: str = ""


def ok(name: str, found: str) -> Finding:
    return Finding(Severity.OK, name, found)


def note(name: str, found: str, todo: str = "") -> Finding:
    return Finding(Severity.NOTE, name, found, todo)


def warning(name: str, found: str, todo: str) -> Finding:
    return Finding(Severity.WARNING, name, found, todo)


def error(name: str, found: str, todo: str) -> Finding:
    return Finding(Severity.ERROR, name, found, todo)

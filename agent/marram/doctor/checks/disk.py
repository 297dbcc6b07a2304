"""Is there room where the agent writes, may it write there, and was anything damaged?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from marram.doctor.finding import Finding, error, ok, warning
from marram.doctor.machine import Machine

_LOW, _LEAST = 256 << 20, 32 << 20
_FEW_FILES = 1000


def check(machine: Machine) -> Iterator[Finding]:
    for folder in folders(machine):
        yield from _room(folder)
    for aside in sorted(machine.state.rglob("*.damaged*")) if machine.state.is_dir() else ():
        yield warning(
            str(aside),
            "was damaged, put aside and begun anew",
            "look for a bad card or a power supply that drops; remove the file when you have looked at it",
        )


def folders(machine: Machine) -> list[Path]:
    """Where the agent writes: its state folder, and the folders of outputs."""
    found = [machine.state]
    for output in machine.config.outputs if machine.config else ():
        path = getattr(output, "path", None)
        if isinstance(path, Path) and path.parent not in found:
            found.append(path.parent)
    return found


def _room(folder: Path) -> Iterator[Finding]:
    name = f"disk of {folder}"
    there = next(one for one in (folder, *folder.parents) if one.exists())
    stat = os.statvfs(there)
    free, total = stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize
    found = f"{free >> 20} of {total >> 20} MiB free"
    if stat.f_flag & os.ST_RDONLY:
        yield error(
            name, "is mounted read-only", "remount it; the kernel does so by itself when a disk fails (dmesg)"
        )
    elif free < _LEAST:
        yield error(name, found, "make room: nothing more can be kept; remove old outputs and logs")
    elif free < _LOW:
        yield warning(name, found, "make room, or lower learning.store.max_bytes and the outputs' max_bytes")
    elif stat.f_files and stat.f_favail < _FEW_FILES:
        yield warning(name, f"{stat.f_favail} more files can be made", "remove small files")
    else:
        yield ok(name, found)
    if not there.is_dir():
        yield error(name, f"{there} is not a folder", "name a folder in the configuration")

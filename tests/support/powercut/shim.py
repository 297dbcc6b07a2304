"""Builds the counting shim (``shim.c``), and reads what it wrote down."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("shim.c")
_CHANGES = ("write", "pwrite", "writev", "ftruncate", "fallocate")


@dataclass(frozen=True)
class Call:
    """One call that changes the disk. size: bytes of a write. target: the new path of a rename."""

    number: int
    name: str
    size: int
    path: Path
    target: Path | None

    @property
    def has_half(self) -> bool:
        return self.size > 1

    def __str__(self) -> str:
        return f"{self.number} {self.name} {(self.target or self.path).name}"


class Shim:
    """The shared object, built below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._library = folder / "powercut.so"
        command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", self._library, _SOURCE, "-ldl"]
        subprocess.run(command, check=True)

    def environment(
        self, folder: Path, log: Path, at: int | None = None, half: bool = False
    ) -> dict[str, str]:
        """Of a process group that is killed at call ``at`` that changes something below ``folder``."""
        counter = log.with_suffix(".count")
        counter.write_bytes(bytes(8))
        log.write_bytes(b"")
        return {
            "LD_PRELOAD": str(self._library),
            "CUT_FOLDER": str(folder),
            "CUT_COUNTER": str(counter),
            "CUT_LOG": str(log),
            **({"CUT_AT": str(at)} if at is not None else {}),
            **({"CUT_HALF": "1"} if half else {}),
        }


def calls(log: Path) -> list[Call]:
    """What the shim counted, in its order."""
    rows = (line.split("\t") for line in log.read_text().splitlines())
    found = (
        Call(int(number), name, int(size), Path(path), Path(target) if target else None)
        for number, name, size, path, target in rows
    )
    return sorted(found, key=lambda call: call.number)


def unsynced(done: Iterable[Call]) -> set[Path]:
    """Files whose content need not be on the disk after these calls, as no fsync came after a change."""
    found: set[Path] = set()
    for call in done:
        if call.name in _CHANGES:
            found.add(call.path)
        elif call.name == "rename" and call.target is not None:
            if call.path in found:
                found.add(call.target)
            else:
                found.discard(call.target)
            found.discard(call.path)
        elif call.name in ("fsync", "unlink"):
            found.discard(call.path)
    return found

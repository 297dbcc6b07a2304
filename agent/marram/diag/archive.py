"""The archive as it is written: a .tar.gz that only its owner may read."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

from marram.errors import MarramError


class DiagError(MarramError):
    """The archive cannot be written."""


def write(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new archive. Raises DiagError, also when there is a file of that name."""
    folder = path.name.removesuffix(".tar.gz").removesuffix(".tgz")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o644
                archive.addfile(entry, io.BytesIO(content))
    except FileExistsError as error:
        raise DiagError(f"{path}: is there already; name another file with -o") from error
    except OSError as error:
        raise DiagError(f"{path}: cannot be written: {error.strerror}; name another file with -o") from error


def listed(files: Mapping[str, bytes]) -> str:
    """What is in it, for people."""
    return "\n".join(f"{len(content):>9} bytes  {name}" for name, content in files.items())

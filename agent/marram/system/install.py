"""Drop-ins to where systemd reads them."""

from __future__ import annotations

from pathlib import Path

from marram.errors import StorageError
from marram.storage import replace_file

FOLDER = Path("/etc/systemd/system")
_NAME = "50-marram-config.conf"


def write(texts: dict[str, str], folder: Path) -> list[Path]:
    """Write each unit's drop-in, take an empty one away; the files that changed. Raises StorageError."""
    changed = []
    for unit, text in texts.items():
        path = folder / f"{unit}.d" / _NAME
        try:
            before = path.read_text() if path.exists() else ""
            if text == before:
                continue
            if text:
                replace_file(path, text.encode())
            else:
                path.unlink()
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
        changed.append(path)
    return changed

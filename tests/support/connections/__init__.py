"""Which addresses do processes talk to, and what do they leave in a home that is empty?"""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("recorder.c")
_FOLDERS = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "TMPDIR")


class Recorder:
    """environment: for the processes; all homes and folders for temporary files are empty ones of its own."""

    def __init__(self, folder: Path) -> None:
        library = folder / "recorder.so"
        command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, _SOURCE, "-ldl"]
        subprocess.run(command, check=True)
        self._log, self._homes = folder / "connections", folder / "homes"
        self.environment = {name: str(self._homes / name.lower()) for name in _FOLDERS}
        for path in self.environment.values():
            Path(path).mkdir(parents=True)
        self.environment |= {"LD_PRELOAD": str(library), "CONNECTIONS_LOG": str(self._log)}

    def addresses(self) -> set[str]:
        """Internet addresses that were connected or sent to."""
        return (
            {line.split()[0] for line in self._log.read_text().splitlines()} if self._log.exists() else set()
        )

    def files(self) -> list[Path]:
        """What was left in the homes and folders for temporary files."""
        return sorted(path.relative_to(self._homes) for path in self._homes.rglob("*") if not path.is_dir())

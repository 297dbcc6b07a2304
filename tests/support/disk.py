"""A disk that is full: a small tmpfs of its own, or, where nobody may mount one, files that may not grow."""

from __future__ import annotations

import errno
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    def fill(self) -> None:
        """From now on nothing can be written."""
        ...

    def free(self) -> None:
        """There is room again."""
        ...


class SmallDisk:
    """A tmpfs on a folder while the block runs. Raises OSError where mounting is not allowed."""

    def __init__(self, folder: Path, size: str = "8m") -> None:
        self.folder, self._size = folder, size

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self.folder)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(errno.EPERM, done.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        with (self.folder / "filler").open("ab", buffering=0) as filler:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        filler.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def free(self) -> None:
        (self.folder / "filler").unlink()


class FileSizeLimit:
    """Writes of a running process fail (EFBIG, where a full disk gives ENOSPC), those of its log too."""

    def __init__(self, pid: Callable[[], int]) -> None:
        self._pid = pid

    def fill(self) -> None:
        resource.prlimit(self._pid(), resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def free(self) -> None:
        resource.prlimit(self._pid(), resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

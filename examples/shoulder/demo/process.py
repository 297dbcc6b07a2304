"""One real process of the demo: started, killed like in a power cut, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

_BIN = Path(sys.executable).parent
_PATIENCE = 30


class DemoError(Exception):
    """The demo cannot go on; the message names the log to look into."""


@dataclass
class Process:
    """A command of Marram ("marram" or "marram-cloud") with its log. kills: how often it was killed."""

    name: str
    command: tuple[str, ...]
    log: Path
    kills: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [_BIN / self.command[0], *self.command[1:]],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def check(self) -> None:
        """Raises DemoError when the process ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise DemoError(f"{self.name} ended with status {self._process.returncode}; see {self.log}")

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self.kills += 1

    def wait(self) -> None:
        """Until it ends by itself. Raises DemoError when it fails or takes too long."""
        assert self._process is not None
        if self._process.wait(_PATIENCE):
            raise DemoError(f"{self.name} ended with status {self._process.returncode}; see {self.log}")

    def stop(self) -> None:
        """End it in peace, as systemd would."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def call(*command: str) -> str:
    """Run a command to its end; what it printed. Raises DemoError."""
    done = subprocess.run([_BIN / command[0], *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def pss(pid: int) -> int:
    """Proportional set size of a process in bytes; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0

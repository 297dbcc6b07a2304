"""The command line in processes of its own, as a user and systemd start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from marram.control import ControlError, ask

PATIENCE = 60.0


def marram(*arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "marram.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        check=False,
    )


class Agent:
    """``marram run`` on a configuration file; ended by its own process id."""

    def __init__(self, config: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.config = config
        self._log = config.with_suffix(".log")
        self._out = config.with_suffix(".out")
        with self._log.open("wb") as log, self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "marram.cli", "run", "-c", str(config)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                env={**os.environ, **(env or {})},
            )

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def out(self) -> str:
        return self._out.read_text()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; fails when the agent ends before."""
        until = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"the agent ended with {self.process.returncode}: {self.log}"
            assert time.monotonic() < until, f"in vain: {self.log}"
            time.sleep(0.05)

    def status(self, socket: Path) -> dict[str, object]:
        """What ``marram status`` says, or {} while there is nobody to ask."""
        try:
            return ask(socket, {"command": "status"})
        except ControlError:
            return {}

    def stop(self) -> int:
        """End it as systemd does; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)

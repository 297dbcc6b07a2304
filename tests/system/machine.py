"""A machine with a systemd of its own, booted for one test and gone with it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from tests.support.processes import eventually

_BOOT = Path(__file__).parent / "boot.sh"
_PATIENCE = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """lower: the folders below its overlay, as overlayfs lists them. name: of the host, and its cgroup."""

    def __init__(self, lower: str, name: str, console: Path) -> None:
        self._lower, self._name, self._console = lower, name, console
        self._parent: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def __enter__(self) -> Machine:
        with self._console.open("wb") as console:
            self._parent = subprocess.Popen(
                [str(_BOOT), self._name, self._lower],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        try:
            eventually("systemd has booted", self._booted)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._parent is not None
        self._parent.kill()  # and with it its child, and with that the whole process namespace
        self._parent.wait()
        if self.pid:
            eventually("the machine is gone", lambda: not Path(f"/proc/{self.pid}").exists())
        eventually("its cgroups are gone", self._cleaned)

    # ---- what a person at its console does

    def run(self, *command: str, check: bool = True, patience: float = _PATIENCE, text: str = "") -> str:
        """Run a command in it as root, with ``text`` as its standard input; what it printed."""
        done = self.ran(*command, patience=patience, text=text)
        assert done.returncode == 0 or not check, f"{command}: {done.returncode}: {done.stdout}"
        return done.stdout

    def ran(
        self, *command: str, patience: float = _PATIENCE, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """The same, with the exit status."""
        enter = [
            "nsenter",
            "-t",
            str(self.pid),
            "--all",
            "--wdns=/",
            "env",
            "-i",
            f"PATH={_PATH}",
            "LANG=C.UTF-8",
        ]
        return subprocess.run(
            [*enter, "DEBIAN_FRONTEND=noninteractive", *command],
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience,
            check=False,
        )

    def file(self, place: str) -> Path:
        """A file in it, for the test's own eyes and hands."""
        return Path(f"/proc/{self.pid}/root{place}")

    def put(self, file: Path, place: str) -> str:
        """Copy a file of ours into it; the place."""
        there = self.file(place)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(file.read_bytes())
        return place

    def install(self, *packages: Path) -> str:
        """Install packages as a technician does, with apt; what it said."""
        places = [self.put(package, f"/tmp/{package.name}") for package in packages]
        return self.run("apt-get", "install", "--yes", "--allow-downgrades", *places, patience=300)

    # ---- units

    def show(self, unit: str, what: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-P", what, unit).strip()

    def main_pid(self, unit: str = "marram.service") -> int:
        """Its process, by the machine's own count; 0 when none runs."""
        return int(self.show(unit, "MainPID") or 0)

    def kill(self, unit: str = "marram.service") -> None:
        """As a crash: SIGKILL to its process."""
        pid = self.main_pid(unit)
        assert pid > 1, f"{unit} does not run"  # kill 0 would mean the test's own group
        self.run("kill", "-KILL", str(pid))

    def active(self, unit: str = "marram.service") -> bool:
        return self.show(unit, "ActiveState") == "active"

    def restarts(self, unit: str = "marram.service") -> int:
        return int(self.show(unit, "NRestarts"))

    def journal(self, unit: str = "marram.service") -> str:
        command = ["journalctl", "--no-pager", "--unit", unit, "--output", "short-monotonic"]
        return self.run(*command, check=False)  # a pattern that no unit has matched yet is an error

    def drop_in(self, unit: str, text: str, name: str = "test") -> None:
        """Add to a unit as an administrator does."""
        place = self.file(f"/etc/systemd/system/{unit}.d/{name}.conf")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        self.run("systemctl", "daemon-reload")

    def _booted(self) -> bool:
        assert self._parent is not None
        assert self._parent.poll() is None, self._console.read_text(errors="replace")
        children = Path(f"/proc/{self._parent.pid}/task/{self._parent.pid}/children").read_text().split()
        with contextlib.suppress(OSError):
            if children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n":
                self.pid = int(children[0])
                return self.run("systemctl", "is-system-running", check=False).strip() in {
                    "running",
                    "degraded",
                }
        return False

    def _cleaned(self) -> bool:
        """Remove its cgroups, deepest first, as the kernel lets go of them."""
        top = Path("/sys/fs/cgroup")
        hierarchies = [top] if (top / "cgroup.controllers").exists() else list(top.iterdir())
        for folder in (hierarchy / self._name for hierarchy in hierarchies):
            for path, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    Path(path).rmdir()
        return not any((hierarchy / self._name).exists() for hierarchy in hierarchies)

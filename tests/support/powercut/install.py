"""A device that runs release 1 and installs release 2, cut off at any point of that and started again.

The device is a real ``marram run`` with its children; the repository is a real one behind a web server. A
cut is a kill of all of its processes. Of what they leave, three things may be on the disk: all of it
(``kept``), all and half of the write that was cut (``half``), or nothing of what was not fsynced (``lost``,
zeros in its place, as ext4 may leave it).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from marram.control import ControlError, ask
from marram.releases.state import State
from marram_cloud.enrolment.files import FleetFolder

from tests.support.fleet import FLEET, MODEL, REGION, Device
from tests.support.fleet_repository import Repository
from tests.support.mosquitto import free_port
from tests.support.powercut.shim import Call, Shim, calls, unsynced
from tests.support.processes import Process, eventually
from tests.support.releases import released, spoilt
from tests.support.web import Server

Kind = Literal["kept", "half", "lost"]

_NAME = "device"
_ALLOWED = {"a", "b", "state.json", "metadata", "spool", "configured.json", "configured.marram"}


@dataclass(frozen=True)
class Cut:
    """Where the power goes, and what the disk keeps."""

    number: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"

    @staticmethod
    def parse(text: str) -> Cut:
        kind, _, number = text.partition(":")
        if kind not in ("kept", "half", "lost"):
            raise ValueError(f"{text}: write a cut as kept:N, half:N or lost:N")
        return Cut(int(number), kind)  # type: ignore[arg-type]


class Install:
    """See the module's docstring. calls: all that change the disk in an install without a cut."""

    def __init__(self, folder: Path, server: Server, repository: Repository, identity: Path) -> None:
        self.calls: list[Call] = []
        self._folder, self._server, self._identity = folder, server, identity
        self._shim = Shim(folder)
        self._template = folder / "template"
        repository.release(released("1"), "1")
        with self._device("first") as device:
            device.start()
            _until_confirmed(device, "1")
            assert device.process.stop() == 0
            shutil.copytree(device.state, self._template, ignore=shutil.ignore_patterns("*.sock"))
        repository.release(released("2", infer=spoilt("permuted")), "2")
        with self._device("whole") as device:
            device.process.start(**self._shim.environment(_releases(device), _log(device)))
            _until_confirmed(device, "2")
            assert device.process.stop() == 0
            self.calls = calls(_log(device))

    @staticmethod
    @contextmanager
    def made(folder: Path) -> Iterator[Install]:
        """With a fleet, a repository and its server of its own."""
        fleet = FleetFolder.create(folder / "fleet", FLEET, REGION, models=(MODEL,))
        identity, _ = fleet.enrol(_NAME)
        repository = Repository(fleet.path)
        with repository.served() as server:
            yield Install(folder, server, repository, identity)

    def cuts(self) -> list[Cut]:
        """Every one that makes a difference."""
        found = []
        for place, call in enumerate(self.calls):
            found.append(Cut(call.number, "kept"))
            if call.has_half:
                found.append(Cut(call.number, "half"))
            if unsynced(self.calls[:place]):
                found.append(Cut(call.number, "lost"))
        return found

    def survives(self, cut: Cut) -> str:
        """Cut there, look at the disk, start again, and see release 2 run; what was cut. AssertionError."""
        with self._device(str(cut).replace(":", "-")) as device:
            log = _log(device)
            half = cut.kind == "half"
            device.process.start(**self._shim.environment(_releases(device), log, cut.number, half))
            eventually("the end", lambda: not device.process.running or _confirmed(device, "2"))
            # The last calls come when it ends as it is asked to.
            status = device.process.stop() if device.process.running else device.process.wait()
            if status == 0:
                return f"{cut}: the install was over before that"
            assert status == -9, device.process.tail()
            *done, last = calls(log)
            if cut.kind == "lost":
                for file in unsynced(done):
                    if file.is_file():
                        file.write_bytes(bytes(file.stat().st_size))
            try:
                self._comes_back(device)
            except Exception as error:
                raise AssertionError(f"{cut} ({last}): {error}\n{device.process.tail()}") from error
            return f"{cut}: {last}"

    def _comes_back(self, device: Device) -> None:
        complete(_releases(device))
        device.start()
        model = device.status()["model"]["name"]
        assert model in (f"{MODEL} 1", f"{MODEL} 2"), model
        device.until("predictions", lambda status: status["windows"]["predicted"] > 0)
        _until_confirmed(device, "2")
        assert device.process.stop() == 0
        state = complete(_releases(device))
        assert (state.candidate, state.refused) == (None, ())
        left = {path.name for path in _releases(device).iterdir()}
        assert left <= _ALLOWED, f"left behind: {left - _ALLOWED}"
        left = {path.name for path in _releases(device).rglob("*.new")}
        assert not left, f"left behind: {left}"

    @contextmanager
    def _device(self, name: str) -> Iterator[Device]:
        """A fresh device with the template's state, stopped and taken away in the end."""
        changes: dict[str, Any] = {
            "learning": None,
            "releases": {
                "url": self._server.url,
                "spread": "0s",
                "trial": {"windows": 20, "confirm": 40, "agreement": 0.0, "accuracy": 1.0},
            },
        }
        broker = f"mqtt://127.0.0.1:{free_port()}"  # closed: releases over HTTP need none
        device = Device(self._folder / name, _NAME, self._identity, broker, 1, changes)
        sensor = {**device.settings["sensors"][0], "speed": 40, "repeat": True}
        device.write(sensors=[sensor])
        device.process = Process(
            "marram.cli", ["run", "-c", str(device.config)], device.folder / "log", own_group=True
        )
        if self._template.exists():
            shutil.copytree(self._template, device.state)
        try:
            yield device
        finally:
            device.process.kill()
        shutil.rmtree(device.folder)


def complete(folder: Path) -> State:
    """The state that is on the disk, once the committed release was found to be the file that was signed."""
    state = msgspec.json.decode((folder / "state.json").read_bytes(), type=State)
    assert state.committed is not None
    content = (folder / state.committed.slot).read_bytes()
    assert hashlib.sha256(content).hexdigest() == state.committed.release.sha256, "another file in the slot"
    return state


def _until_confirmed(device: Device, version: str) -> None:
    def look() -> bool:
        assert device.process.running, f"the device has ended\n{device.process.tail()}"
        return _confirmed(device, version)

    eventually(f"release {version} is confirmed", look)


def _confirmed(device: Device, version: str) -> bool:
    """Whether this release runs for good. The daemon looks every few seconds; it is asked to look now."""
    with suppress(ControlError):
        status = device.status()
        if status["release"]["running"] != f"{MODEL}/{version}.marram":
            return False
        assert status["windows"]["failed"] == 0
        if status["release"]["confirmed"]:
            return True
        ask(device.socket, {"command": "updates", "do": "check"})
    return False


def _releases(device: Device) -> Path:
    return device.state / "releases"


def _log(device: Device) -> Path:
    return device.folder / "calls"

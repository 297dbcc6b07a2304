"""A real fleet for a test: its folders and YAML files, its aggregator and its devices as real processes.

    with Fleet(tmp_path, broker.url, rounds={"epochs": 2}) as fleet:
        fleet.devices[0].start()
        fleet.aggregator.start()
        fleet.closed(3)

The devices replay people of examples/shoulder. All processes are ended by their id; when a test fails the
ends of their logs are printed.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from marram.bundle.file import parse
from marram.bundle.file import read as read_bundle
from marram.control import ControlError, ask
from marram.link.identity import Identity
from marram.link.identity import load as load_identity
from marram.wire import certificates
from marram.wire.signed import Author
from marram.wire.topics import Topics

from tests.support.processes import NotifySocket, Process, eventually

ROOT = Path(__file__).parents[2]
SHOULDER = ROOT / "examples" / "shoulder"
FLEET, REGION, MODEL = "gym", "main", "shoulder"
TOPICS = Topics(FLEET, REGION)
_ENOUGH = 40


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the project to its end."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The base with the changes put in, section by section."""
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


class Device:
    """One device's folder and process. changes: to its configuration, section by section."""

    def __init__(
        self, folder: Path, name: str, identity: Path, broker: str, person: int, changes: Any
    ) -> None:
        self.name, self.folder = name, folder
        self.state, self.predictions = folder / "state", folder / "predictions.jsonl"
        self.identity_folder = identity
        self.config = folder / "marram.yaml"
        folder.mkdir()
        recording = SHOULDER / "recordings" / f"person-{person:02}.csv.gz"
        self.settings: dict[str, Any] = merged(
            {
                "device": {"name": name, "state": str(self.state)},
                "sensors": [
                    {
                        "type": "csv",
                        "name": "watch",
                        "path": str(recording),
                        "label": "exercise",
                        "speed": "max",
                    }
                ],
                "model": {"bundle": str(SHOULDER / "shoulder.marram")},
                "outputs": [{"type": "jsonl", "path": str(self.predictions)}],
                "cloud": {"identity": str(identity), "broker": broker},
                "watch": {"training_below": 150},
                "learning": {
                    "store": {"commit_every": "1s"},
                    "governor": {
                        "max_cpu": 100,
                        "on_battery": True,
                        "min_battery": 0,
                    },
                },
            },
            changes,
        )
        self.process = Process("marram.cli", ["run", "-c", str(self.config)], folder / f"{name}.log")
        self.write()

    def write(self, **changes: Any) -> None:
        """Write the YAML file, with more changes."""
        self.settings = merged(self.settings, changes)
        self.config.write_text(yaml.safe_dump(self.settings))

    @property
    def socket(self) -> Path:
        return self.state / "marram.sock"

    @property
    def identity(self) -> Identity:
        return load_identity(self.identity_folder)

    @property
    def author(self) -> Author:
        """Seals messages as this device."""
        identity = self.identity
        return Author(identity.subject, identity.signer, (certificates.der(identity.certificate),))

    def start(self, notify: NotifySocket | None = None, **environment: str) -> None:
        """Start it and wait until it answers."""
        more = {"NOTIFY_SOCKET": str(notify.path)} if notify else {}
        self.process.start(**more, **environment)
        eventually(f"{self.name} answers", self.answers)

    def answers(self) -> bool:
        assert self.process.running, f"{self.name} has ended\n{self.process.tail()}"
        try:
            self.status()
        except ControlError:
            return False
        return True

    def status(self) -> dict[str, Any]:
        """What ``marram status --json`` says."""
        return ask(self.socket, {"command": "status"})

    def until(self, what: str, condition: Callable[[dict[str, Any]], object], patience: float = 45.0) -> None:
        """Wait for a status that fulfils the condition."""
        last: dict[str, Any] = {}

        def look() -> object:
            last.update(self.status())
            return condition(last)

        try:
            eventually(f"{self.name}: {what}", look, patience)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(last, indent=1)}") from None

    def has_windows(self) -> None:
        """Wait until it can train."""
        self.until("windows to train on", lambda status: status["store"]["labelled"] >= _ENOUGH)

    def predicted(self) -> list[dict[str, Any]]:
        """Every prediction that it wrote."""
        if not self.predictions.exists():
            return []
        return [json.loads(line) for line in self.predictions.read_text().splitlines()]

    def has_a_delta(self) -> bytes:
        """Wait for the one delta in its outbox and give the digest. Read from its journal: its status speaks
        of a delta a moment before that is on the disk."""
        found: list[bytes] = []

        def look() -> bool:
            found[:] = [row[0] for row in read(self.state / "journal.db", "SELECT digest FROM outbox")]
            return len(found) == 1

        eventually(f"{self.name}: a delta in the outbox", look, 45)
        return found[0]


class Aggregator:
    """The aggregator's process and ledger. bundle: calibration.npz lies beside it."""

    def __init__(self, folder: Path, broker: str, rounds: dict[str, Any], bundle: Path) -> None:
        self.config, self.state = folder / "aggregator.yaml", folder / "aggregator"
        self.settings: dict[str, Any] = {
            "bundle": str(bundle),
            "state": str(self.state),
            "broker": {"url": broker, "identity": str(folder / "fleet" / "aggregator")},
            "rounds": {
                "minimum_devices": 2,
                "deadline": "90s",
                "settle": "200ms",
                "minimum_windows": 8,
                "epochs": 1,
                "snapshot_every": 3,
                **rounds,
            },
            "releases": {
                "repository": str(folder / "fleet" / "repository"),
                "keys": str(folder / "fleet" / "online"),
                "calibration": str(bundle.with_name("calibration.npz")),
            },
        }
        self.process = Process("marram_cloud.cli", ["run", "-c", str(self.config)], folder / "aggregator.log")
        self.write()

    def write(self, **changes: Any) -> None:
        self.settings = merged(self.settings, changes)
        self.config.write_text(yaml.safe_dump(self.settings))

    def start(self) -> None:
        self.process.start()

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Look into the ledger."""
        return read(self.state / "ledger.db", sql, *values)

    def closed(self) -> int:
        """How many rounds are closed."""
        return int(self.query("SELECT count(*) FROM rounds WHERE closed IS NOT NULL")[0][0])

    def deltas(self) -> list[tuple[int, str, bytes]]:
        """(round, device, digest) of every delta that was taken."""
        return self.query("SELECT round, device, digest FROM deltas ORDER BY round, device")  # type: ignore[return-value]

    def refused(self) -> dict[str, int]:
        """How many messages were refused, by reason."""
        return dict(self.query("SELECT reason, sum(count) FROM refusals GROUP BY reason"))  # type: ignore[arg-type]

    def counted_once(self) -> None:
        """Every closed round counts exactly the deltas that the ledger took for it, one a device."""
        for number, counted, weight in self.query(
            "SELECT number, counted, weight FROM rounds WHERE closed NOT NULL"
        ):
            taken = self.query("SELECT device, samples FROM deltas WHERE round = ?", number)
            assert counted == len(taken) == len({device for device, _ in taken}), f"round {number}"
            assert weight == sum(samples for _, samples in taken), f"round {number}"


class Fleet:
    """See the module's docstring. rounds: changes to the aggregator's rounds. device: to each device's YAML.

    host: of the broker, for a fleet whose broker has a certificate. bundle: what it learns; devices need
    another sensor for another one.
    """

    def __init__(
        self,
        folder: Path,
        broker: str,
        devices: int = 2,
        rounds: dict[str, Any] | None = None,
        device: dict[str, Any] | None = None,
        host: str | None = None,
        bundle: Path = SHOULDER / "shoulder.marram",
    ) -> None:
        self.folder, self.broker = folder, broker
        self.model = read_bundle(bundle).manifest.name
        more = ("--broker", host) if host else ()
        names = ("--fleet", FLEET, "--region", REGION, "--models", self.model)
        self.must("init", folder / "fleet", *names, *more)
        self.aggregator = Aggregator(folder, broker, rounds or {}, bundle)
        names = [f"device-{number}" for number in range(1, devices + 1)]
        self.enrol(*names)
        self.devices = [
            Device(folder / name, name, folder / "fleet" / "devices" / name, broker, person, device or {})
            for person, name in enumerate(names, start=1)
        ]
        self._extra: list[Process] = []

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        processes = [self.aggregator.process, *(device.process for device in self.devices)]
        for process in processes:
            process.kill()
        if failed is not None:
            print("\n".join(process.tail() for process in processes))

    def must(self, *arguments: object) -> str:
        """Run a ``marram-cloud`` command that has to work; what it printed."""
        done = run("marram_cloud.cli", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def enrol(self, *names: str) -> None:
        self.must("enrol", self.folder / "fleet", *names, "-c", self.aggregator.config)

    def release(self, *arguments: object, to: str = "all") -> str:
        """Build, sign, publish and promote; the version. arguments: of ``release build``."""
        built = self.folder / "built.marram"
        self.must("release", "build", "-c", self.aggregator.config, "-o", built, *arguments)
        version = parse(built.read_bytes()).manifest.version
        self.publish(built, version)
        self.must("release", "promote", self.model, version, "--to", to, "-c", self.aggregator.config)
        return version

    def publish(self, file: Path, version: str, *arguments: str) -> None:
        """Sign a file as a release and publish it. arguments: more of ``release sign``."""
        place = ("-c", self.aggregator.config)
        keys = self.folder / "fleet" / "offline" / "release-1.pem"
        self.must(
            "release",
            "sign",
            file,
            "--model",
            self.model,
            "--version",
            version,
            "--key",
            keys,
            *arguments,
            *place,
        )
        self.must("release", "publish", *place)

    def start(self) -> Fleet:
        """Devices first, and the aggregator once they can train: so no round waits for windows."""
        for device in self.devices:
            device.process.start()
        for device in self.devices:
            eventually(f"{device.name} answers", device.answers)
            device.has_windows()
        self.aggregator.start()
        return self

    def closed(self, rounds: int, patience: float = 45.0) -> None:
        """Wait until so many rounds are closed in all."""

        def look() -> bool:
            assert self.aggregator.process.running, "the aggregator has ended"
            return self.aggregator.closed() >= rounds

        eventually(f"{rounds} closed rounds", look, patience)

    def goes_on(self, rounds: int = 2) -> None:
        """Wait for more rounds than there are now."""
        self.closed(self.aggregator.closed() + rounds)

    def settled(self) -> None:
        """Wait until no device owes a delta, with the aggregator at its limit of rounds."""
        for device in self.devices:
            device.until("an empty outbox", lambda status: status["rounds"]["outbox"] == 0)


def read(path: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Rows of a database that another process writes; nothing before there is one."""
    if not path.exists():
        return [(0,)] if sql.startswith("SELECT count") else []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
        return database.execute(sql, values).fetchall()


def copy_identity(source: Path, target: Path) -> Path:
    """A copy of an identity folder, to be spoilt."""
    shutil.copytree(source, target)
    (target / "device.key").chmod(0o600)
    return target

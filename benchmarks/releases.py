"""What a release costs: bytes and time to a device, windows lost, memory and processor, time to a fleet."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from marram.control import ask
from onnx import numpy_helper

from benchmarks.processes import cpu_seconds, pss
from benchmarks.report import Figure, Result, at_most
from benchmarks.rollouts import seconds_to_all
from benchmarks.small_changes import Change, changes, retrained
from tests.support.fleet import MODEL, Device, Fleet
from tests.support.fleet_repository import Repository
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually
from tests.support.proxy import Proxy
from tests.support.releases import released
from tests.support.web import Server
from tests.support.windows import SHOULDER, bundle

_MIB = float(1 << 20)
_LARGE, _SEEDS = 2_000_000, 3
_TRIAL = {"windows": 30, "confirm": 60, "agreement": 0.0, "accuracy": 1.0}
_MODULES = {"fetch": "looks, verifies, fetches", "preflight": "preflight", "trial": "trial"}


@dataclass(frozen=True)
class Arrival:
    """One release's way to a device. seconds: from its promotion, or the look, to verified on its disk."""

    size: int
    down: int
    up: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.down / self.size:.2f} x its {self.size / 1000:.0f} kB down, {self.up / 1000:.1f} kB up; "
            f"{self.seconds:.1f} s"
        )


@dataclass
class Children:
    """The most that each kind of child took, by many looks: PSS and RSS in bytes, processor seconds."""

    parent: int
    most: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    _end: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.005):
            for tasks in Path(f"/proc/{self.parent}/task").iterdir():
                with contextlib.suppress(OSError, LookupError, IndexError, ValueError):
                    for child in map(int, (tasks / "children").read_text().split()):
                        self._look(child)

    def _look(self, pid: int) -> None:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        name = next((name for name in _MODULES if f"marram.releases.{name}".encode() in command), None)
        if name is None:
            return  # between fork and exec it is another daemon yet
        rss = next(
            int(line.split()[1]) * 1024
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmHWM:")
        )
        now = (float(pss(pid)), float(rss), cpu_seconds(pid))
        before = self.most.get(name, (0.0, 0.0, 0.0))
        self.most[name] = (max(now[0], before[0]), max(now[1], before[1]), max(now[2], before[2]))


@dataclass
class Way:
    """What the releases of one transport came to."""

    arrivals: list[Arrival]
    children: Children
    memory: tuple[int, int]
    lost: int


def measure() -> Result:
    load = os.getloadavg()
    contents = [retrained("1", 1), _large("2"), retrained("3", 2)]
    over_mqtt, over_https = _mqtt(contents), _https(contents)
    first, large, small = zip(over_mqtt.arrivals, over_https.arrivals, strict=True)
    return Result(
        "Releases",
        "python -m benchmarks releases",
        "A real `marram run` on a replayed recording installs three releases one after the other, "
        "each confirmed before the next: over MQTT from a real `marram-cloud run` by Mosquitto (bytes"
        " as a proxy counted them, with all of TUF's metadata, reports and MQTT's frames; time from "
        "the end of `release promote`), and over HTTP from a plain web server (bytes of bodies; time "
        "from the look). Plain download is 1 x. All is on one machine: times are those of the "
        "programs, not of a network. Retrained: other parameters, and the int8 program made from "
        "them. Trial and confirmation are short here (30 and 60 windows). A child's memory is the "
        "most of three runs, looked at every 5 ms; PSS of what it shares with the daemon is shared. "
        "Patches: zstd level 19, long distance matching. The fleet is that of "
        "tests/simulation/rollout.py, on a simulated clock: real documents, controller and reports; "
        "it draws the times: devices look within 60 s of the news (the default spread), fetch for 10 "
        "to 120 s, try for 5 to 30 min. In stages: 5 %, 25 %, all, 10 min of soak. On and off: for "
        "hours, away for up to one. Lossy: 30 % of the reports are lost for good, which a connected "
        f"device's link would send again. Median of {_SEEDS} seeds. Load average of this machine "
        f"before and after: {load[0]:.1f} and {os.getloadavg()[0]:.1f}.",
        (
            *_both("first release, retrained; the configured bundle is held", first),
            *_both("a model of which next to nothing is held", large),
            *_both("back to a small model, retrained again; an older one is held", small),
            at_most("windows lost or failed in six swaps", over_mqtt.lost + over_https.lost, 0),
            *_cost(over_mqtt, "MQTT"),
            *_cost(over_https, "HTTP"),
            *(_small_change(change) for change in changes()),
            *_fleet(),
        ),
    )


def _both(what: str, ways: tuple[Arrival, Arrival]) -> Iterator[Figure]:
    for name, arrival in zip(("MQTT", "HTTP"), ways, strict=True):
        yield Figure(f"{what}: {name}", str(arrival))


def _cost(way: Way, name: str) -> Iterator[Figure]:
    for module, what in _MODULES.items():
        memory, rss, seconds = way.children.most[module]
        yield Figure(
            f"child that {what}, {name}" if module == "fetch" else f"child of the {what}, {name}",
            f"{memory / _MIB:.0f} MiB PSS, {rss / _MIB:.0f} MiB RSS at most; {seconds:.2f} s of processor",
        )
    before, after = way.memory
    yield Figure(f"daemon before and after, PSS, {name}", f"{before / _MIB:.1f} and {after / _MIB:.1f} MiB")


def _small_change(change: Change) -> Figure:
    index, fetched = change.by_pieces
    sizes = (index + fetched, change.by_patch, change.compressed)
    ratios = " / ".join(f"{size / len(change.new):.2f}" for size in sizes)
    return Figure(f"{change.name}: pieces / zstd patch / zstd alone", f"{ratios} of its size")


def _fleet() -> Iterator[Figure]:
    for staged in (True, False):
        for lossy, sleeps in ((False, False), (False, True), (True, True)):
            times = (seconds_to_all(seed, staged, lossy, sleeps) for seed in range(_SEEDS))
            yield Figure(
                f"publish to 99 % of 1,000 simulated devices {'in stages' if staged else 'at once'}: "
                f"{'lossy' if lossy else 'good'} network, {'on and off' if sleeps else 'always on'}",
                f"{statistics.median(times) / 60:.0f} min",
            )


def _large(version: str) -> bytes:
    """The shoulder bundle with 2 MB that no device has seen in its int8 program."""
    model = onnx.load_from_string(bundle(SHOULDER).members["infer.onnx"])
    noise = np.random.default_rng(7).integers(0, 256, _LARGE).astype(np.uint8)
    model.graph.initializer.append(numpy_helper.from_array(noise, "noise"))
    return released(version, infer=model.SerializeToString())


def _mqtt(contents: list[bytes]) -> Way:
    with (
        tempfile.TemporaryDirectory() as name,
        Mosquitto(Path(name) / "mosquitto") as broker,
        Proxy(broker.port) as proxy,
        Fleet(Path(name), broker.url, devices=1, rounds={"limit": 1}) as fleet,
    ):
        fleet.aggregator.start()
        device = _device(fleet, {"cloud": {"broker": proxy.url}})

        def sent() -> tuple[int, int]:
            flows = proxy.connections
            return sum(len(one.down.data) for one in flows), sum(len(one.up.data) for one in flows)

        def promote(version: str, content: bytes) -> None:
            file = fleet.folder / "next.marram"
            file.write_bytes(content)
            fleet.publish(file, version)
            fleet.must("release", "promote", MODEL, version, "--to", "all", "-c", fleet.aggregator.config)

        return _releases(device, contents, promote, sent)


def _https(contents: list[bytes]) -> Way:
    with (
        tempfile.TemporaryDirectory() as name,
        Mosquitto(Path(name) / "mosquitto") as broker,
        Fleet(Path(name), broker.url, devices=1) as fleet,
    ):
        repository = Repository(fleet.folder / "fleet")
        with repository.served() as server:
            device = _device(fleet, {"releases": {"url": server.url}})

            def promote(version: str, content: bytes) -> None:
                repository.release(content, version)
                ask(device.socket, {"command": "updates", "do": "check"})

            return _releases(device, contents, promote, lambda: (server.sent, _asked(server)))


def _asked(server: Server) -> int:
    """Bytes of the request lines and ranges, without the other headers."""
    return sum(len(path) + len(ranges) for path, ranges in server.asked)


def _device(fleet: Fleet, changes: dict[str, Any]) -> Device:
    device = fleet.devices[0]
    sensor = {**device.settings["sensors"][0], "speed": 40, "repeat": True}
    device.write(sensors=[sensor], learning=None, releases={"spread": "0s", "trial": _TRIAL})
    device.write(**changes)
    return device


def _releases(
    device: Device,
    contents: list[bytes],
    promote: Callable[[str, bytes], None],
    sent: Callable[[], tuple[int, int]],
) -> Way:
    device.start()
    device.until("a look", lambda status: status["release"]["checked"])
    time.sleep(10)
    pid, arrivals = device.process.pid, []
    before, children = pss(pid), Children(pid)
    with children.watched():
        for number, content in enumerate(contents, start=1):
            begun, said = sent(), device.process.log.read_text().count("is verified")
            promote(str(number), content)
            began = time.monotonic()

            def verified(said: int = said) -> bool:
                return device.process.log.read_text().count("is verified") > said

            eventually("verified", verified, 120)
            seconds, now = time.monotonic() - began, sent()
            arrivals.append(Arrival(len(content), now[0] - begun[0], now[1] - begun[1], seconds))
            target = f"{MODEL}/{number}.marram"
            device.until(
                "committed", lambda status, target=target: status["release"]["running"] == target, 120
            )
            device.until("confirmed", lambda status: status["release"]["confirmed"], 120)
    time.sleep(10)
    after, lost = pss(pid), _lost(device)
    device.process.stop()
    return Way(arrivals, children, (before, after), lost)


def _lost(device: Device) -> int:
    """Windows that came and were neither predicted nor wait: counted when nothing is on its way."""
    looks = [device.status()["windows"] for _ in range(50)]
    assert looks[-1]["predicted"] > 1000
    on_the_way = [one["received"] - one["predicted"] - one["waiting"] for one in looks]
    return min(on_the_way) + looks[-1]["failed"] + looks[-1]["dropped"]

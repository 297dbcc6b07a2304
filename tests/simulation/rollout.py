"""A thousand devices that follow a staged roll-out, and the cloud that steers it, on a simulated clock.

The documents, the controller, the reports and the devices' choice are the real ones; the network loses,
doubles and reorders, and devices come and go.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from marram.storage import open_database
from marram.wire.messages import Report
from marram_cloud.releases.online.reports import SCHEMA, Reports
from marram_cloud.releases.repository.targets import Release
from marram_cloud.releases.rollout.audience import Audience
from marram_cloud.releases.rollout.controller import Advance, Limits, Stop, decide
from marram_cloud.releases.rollout.document import Document

from tests.simulation.network import Clock, Weather

OLD = Release("m/1.onnx", "1", "onnx", 1, "1" * 64, 10)
NEW = Release("m/2.onnx", "2", "onnx", 2, "2" * 64, 10)
_TARGETS = {OLD.path: OLD, NEW.path: NEW}
_HINT, _STEER = 60.0, 300.0
HOUR = 3600.0


@dataclass
class Device:
    """running: sha256 of what it runs. ran: all that it ever ran, in a trial too. stage: of ``candidate``."""

    name: str
    world: World
    running: str = OLD.sha256
    online: bool = False
    gone: bool = False
    stage: str = "idle"
    candidate: str = ""
    reason: str = ""
    counter: int = 0
    refused: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)

    def comes(self) -> None:
        """Connects: it hears what is published, and says again where it is."""
        if self.gone:
            return
        self.online = True
        self.world.online.add(self.name)
        self.says()
        self.looks()

    def goes(self) -> None:
        self.online = False
        self.world.online.discard(self.name)

    def looks(self) -> None:
        """Follows the roll-out that is published now, unless it is at a release already."""
        if not self.online or self.stage in ("fetching", "trial"):
            return
        plan = self.world.document.rollout.assigned(self.name, (), self.running)
        if plan is None or plan.sha256 == self.running or plan.sha256 in self.refused:
            return
        self._enters("fetching", plan.target)
        self.world.clock.at(self.world.after(10, 120), self.tries)

    def tries(self) -> None:
        self.ran.add(_TARGETS[self.candidate].sha256)
        self._enters("trial", self.candidate)
        self.world.clock.at(self.world.after(300, 1800), self.ends)

    def ends(self) -> None:
        release = _TARGETS[self.candidate]
        if self.world.random.random() < self.world.failing:
            self.refused.add(release.sha256)
            self._enters("rolled_back", self.candidate, "worse than before")
        else:
            self.running = release.sha256
            self._enters("committed", self.candidate)
        self.looks()

    def _enters(self, stage: str, candidate: str, reason: str = "") -> None:
        self.stage, self.candidate, self.reason = stage, candidate, reason
        self.says()

    def says(self) -> None:
        """One report, which may be lost, doubled, and overtaken."""
        self.counter += 1
        if self.online:
            running = next((one.path for one in _TARGETS.values() if one.sha256 == self.running), "")
            report = Report("0", "m", running, "", b"d" * 32, self.stage, self.candidate, self.reason)  # type: ignore[arg-type]
            self.world.carries(self.name, report, self.counter)


class World:
    """failing: how likely the new release fails on a device. away: part of the devices that never come."""

    def __init__(self, seed: int, failing: float, devices: int = 1000, away: float = 0.1) -> None:
        self.random, self.clock, self.failing = random.Random(seed), Clock(), failing
        self.weather = Weather(self.random.uniform(0, 0.4), self.random.uniform(0, 0.4), 300.0)
        self.reports, self.limits = Reports(open_database(":memory:", SCHEMA)), Limits()
        self.online: set[str] = set()
        self.began: dict[str, float] = {}
        self.stopped: float | None = None
        self.devices = {
            name: Device(name, self) for name in (f"device-{number}" for number in range(devices))
        }
        document = Document.empty("m").promoted(OLD, Audience.parse("all"), self.clock.now)
        self.document = document.promoted(
            NEW, Audience.parse("5%"), self.clock.now, then=("25%", "all"), soak=600
        )
        for device in self.devices.values():
            device.gone = self.random.random() < away
            self.clock.at(self.after(0, HOUR), lambda device=device: self.lives(device))
        self.clock.at(self.clock.now, self.steers)

    def after(self, least: float, most: float) -> float:
        return self.clock.now + self.random.uniform(least, most)

    def lives(self, device: Device) -> None:
        """On and off, for hours each."""
        device.comes()
        self.clock.at(self.after(0.2 * HOUR, 8 * HOUR), lambda: self.sleeps(device))

    def sleeps(self, device: Device) -> None:
        device.goes()
        self.clock.at(self.after(60, HOUR), lambda: self.lives(device))

    def carries(self, name: str, report: Report, counter: int) -> None:
        known = report.candidate in _TARGETS
        copies = (self.random.random() >= self.weather.loss) + (self.random.random() < self.weather.double)
        for _ in range(copies):
            self.clock.at(
                self.after(0, self.weather.delay),
                lambda: self.reports.take(name, report, counter, self.clock.now, known),
            )

    def steers(self) -> None:
        """What the online service does with each plan."""
        before = self.document
        for plan in before.rollout.plans:
            outcomes = self.reports.outcomes(plan.target)
            schedule = before.schedules[plan.target]
            decision = decide(plan, schedule, self.online, outcomes, self.limits, self.clock.now)
            if isinstance(decision, Stop):
                self.document, self.stopped = (
                    self.document.paused(plan.target, decision.reason), self.clock.now,
                )  # fmt: skip
            elif isinstance(decision, Advance):
                self.document = self.document.advanced(plan.target, self.clock.now)
        if self.document is not before:
            for name in self.online:
                self.clock.at(self.after(0, _HINT), self.devices[name].looks)
        self.clock.at(self.clock.now + _STEER, self.steers)

    def run(self, hours: float) -> None:
        self.clock.run(self.clock.now + hours * HOUR, lambda: False)

    def runs(self, release: Release) -> set[str]:
        return {name for name, device in self.devices.items() if device.running == release.sha256}

    def ever_ran(self, release: Release) -> set[str]:
        return {name for name, device in self.devices.items() if release.sha256 in device.ran}

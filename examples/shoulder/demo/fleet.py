"""The processes of the demo, and what is seen of them while they run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from marram.config.load import load
from marram.control import ControlError, ask
from marram_cloud.aggregator import open_ledger
from marram_cloud.config.schema import Aggregator
from marram_cloud.ledger.ledger import Ledger

from examples.shoulder.demo.process import DemoError, Process, pss
from examples.shoulder.demo.site import Site

Status = dict[str, Any]
_LOOK_EVERY = 1.0
_POLL = 0.05


@dataclass
class Fleet:
    """Devices and aggregator. notes: what happened, for the screen and the report: (seconds, round, text)."""

    site: Site
    devices: dict[str, Process]
    aggregator: Process
    ledger: Ledger
    began: float = field(default_factory=time.monotonic)
    notes: list[tuple[float, int, str]] = field(default_factory=list)
    idle_pss: list[int] = field(default_factory=list)
    trainer_pss: int = 0
    aggregator_pss: int = 0
    _looked: float = 0.0
    _shown: int = -1

    @staticmethod
    def of(site: Site, names: Sequence[str]) -> Fleet:
        """Nothing is started yet."""
        ledger = open_ledger(load(site.aggregator_yaml, Aggregator))
        return Fleet(site, {name: site.device(name) for name in names}, site.aggregator(), ledger)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def rounds_closed(self) -> int:
        return sum(one.closed is not None for one in self.ledger.rounds())

    @property
    def open_round(self) -> int:
        current = self.ledger.current_round()
        return self.rounds_closed if current is None else current.number

    def status(self, name: str) -> Status | None:
        """What a device says of itself; None while it does not answer."""
        try:
            return ask(self.site.socket(name), {"command": "status"})
        except ControlError:
            return None

    def statuses(self) -> dict[str, Status]:
        return {name: status for name in self.devices if (status := self.status(name)) is not None}

    def tell(self, text: str) -> None:
        """Put something on record and on the screen."""
        self.notes.append((round(self.seconds, 1), self.open_round, text))
        print(f"{self.seconds:6.1f} s  {text}", flush=True)

    def until(self, what: str, condition: Callable[[], bool], patience: float = 120.0) -> None:
        """Wait while the fleet works, showing each round. Raises DemoError after ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                raise DemoError(f"waited {patience:.0f} s for: {what}; the logs are in {self.site.folder}")
            for process in (self.aggregator, *self.devices.values()):
                process.check()
            if time.monotonic() - self._looked > _LOOK_EVERY:
                self._look()
            time.sleep(_POLL)

    def _look(self) -> None:
        self._looked = time.monotonic()
        for status in self.statuses().values():
            training = status["training"]
            if training["running"] is None and status["model"]["name"]:
                self.idle_pss.append(status["memory"]["pss"])
            if training["last"]:
                self.trainer_pss = max(self.trainer_pss, training["last"]["pss"])
        if self.aggregator.running:
            self.aggregator_pss = max(self.aggregator_pss, pss(self.aggregator.pid))
        for one in self.ledger.rounds():
            if one.closed is not None and one.number > self._shown:
                self._shown = one.number
                self._show_round(one.number, one.counted or 0, one.closed)

    def _show_round(self, number: int, counted: int, closed: float) -> None:
        _, size, before, _ = self.ledger.round_figures(number)
        accuracy = statistics.fmean(one.accuracy or 0.0 for one in before)
        bar = "#" * round(accuracy * 40)
        print(
            f"{self.seconds:6.1f} s  round {number:2}  {counted} deltas, {size / counted:5.0f} bytes each  "
            f"accuracy on own windows {accuracy:.2f} {bar}",
            flush=True,
        )

    def stop(self) -> None:
        """End everything."""
        for process in (*self.devices.values(), self.aggregator):
            process.stop()

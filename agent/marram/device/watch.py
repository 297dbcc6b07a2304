"""Looks after the machine while the daemon runs: heat, power, wear, room on the disk, and the degraded modes.

A member of the daemon's loop. It reads, lets pure code decide (``care``, ``modes``), and hands the decisions
to those whom they concern.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marram.config.machine import Board, Watch
from marram.device import thermal
from marram.device.care import Care, Seen
from marram.device.modes import Modes
from marram.device.wear import Wear
from marram.notify import notify

_SHARE = 0.1  # of a disk: on a small one watch.free_disk would be all there is

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Orders:
    """training: why it is paused, "" when it is not. duty: share of the time for inference, 0 to 1.

    store: whether windows may be stored. rarely: store them more rarely.
    """

    training: str = ""
    duty: float = 1.0
    store: bool = True
    rarely: bool = False


@dataclass
class Watcher:
    """state: folder whose disk is watched. observe: reasons by name of the modes that others see.

    obey: hears the orders whenever they change. passed: seconds that nobody sets.
    """

    settings: Watch
    board: Board
    state: Path
    observe: Callable[[], Mapping[str, str]]
    obey: Callable[[Orders], None]
    sys: Path = Path("/sys")
    passed: Callable[[], float] = time.monotonic
    wear: Wear = field(init=False)
    modes: Modes = field(default_factory=Modes)
    care: Care = field(default_factory=Care)
    orders: Orders = field(default_factory=Orders)
    wake_at: float | None = 0.0
    _seen: Seen = field(default_factory=Seen)
    _free: int = 0
    _low: bool = False

    def __post_init__(self) -> None:
        self.wear = Wear(self.state / "wear.json")

    def wake(self, now: float) -> None:
        self.wake_at = now + self.settings.every
        zones = thermal.zones(self.sys, self.board.thermal_zones)
        self._seen = Seen(
            degrees=max((zone.degrees for zone in zones), default=None),
            under_voltage=thermal.under_voltage(self.sys),
            written=self.wear.look(now),
        )
        self.care = self.care.after(self._seen, self.settings)
        observed = {**self._own(), **self.observe()}
        for change in self.modes.see(observed, self.passed()):
            mode = change.mode
            if change.begins:
                log.warning(
                    "mode %s begins: %s. Goes on: %s. Stops: %s. What to do: %s",
                    mode.name, change.reason, mode.goes_on, mode.stops, mode.todo,
                    extra={"mode": mode.name},
                )  # fmt: skip
            else:
                log.warning("mode %s ends", mode.name, extra={"mode": mode.name})
            notify(STATUS=self.modes.summary())
        full = "disk-full" in self.modes.active
        orders = Orders(
            training=self.care.training_paused(self.settings) or ("the disk is full" if full else ""),
            duty=self.care.duty(self.settings),
            # A store that could not be written says so only as long as it tries.
            store=not self._low,
            rarely=self.care.worn,
        )
        if orders != self.orders:
            self.orders = orders
            self.obey(orders)

    def settle(self, settings: Watch, board: Board, now: float) -> None:
        """Other settings from now on."""
        self.settings, self.board = settings, board
        self.wake(now)

    def end(self, now: float) -> None:
        """The daemon ends."""
        self.wear.look(now)
        self.wear.save(now)

    def _own(self) -> dict[str, str]:
        """Modes that this sees by itself."""
        found = {}
        if self.care.hot:
            found["hot"] = f"{self._seen.degrees or 0:.0f} degC"
        if self.care.weak:
            found["under-voltage"] = "the supply is too weak"
        if self.care.worn:
            limit = self.settings.writes_per_day or 0
            found["writes-exceeded"] = f"{self._seen.written >> 20} of {limit >> 20} MiB written today"
        try:
            stat = os.statvfs(self.state)
        except OSError as error:
            found["disk-full"] = f"{self.state} cannot be looked at: {error.strerror}"
            return found
        self._free = stat.f_bavail * stat.f_frsize
        self._low = self._free < min(self.settings.free_disk, stat.f_blocks * stat.f_frsize * _SHARE)
        if self._low:
            found["disk-full"] = f"{self._free >> 20} MiB free at {self.state}"
        return found

    def status(self, now: float) -> dict[str, Any]:
        """For ``marram status``. Degrees Celsius, bytes."""
        return {
            "degrees": self._seen.degrees,
            "under_voltage": self._seen.under_voltage,
            "training_paused": self.orders.training or None,
            "duty": self.orders.duty,
            "free_disk": self._free,
            "written_today": self._seen.written,
            "written": {str(ago): count for ago, count in self.wear.days(now).items()},
            "writes_per_day": self.settings.writes_per_day,
        }

    def modes_status(self) -> dict[str, dict[str, Any]]:
        """The modes that the device is in, by name. since: seconds ago."""
        now = self.passed()
        return {
            name: {
                "reason": one.reason,
                "since": round(now - one.since, 1),
                "goes_on": one.mode.goes_on,
                "stops": one.mode.stops,
                "todo": one.mode.todo,
            }
            for name, one in sorted(self.modes.active.items())
        }

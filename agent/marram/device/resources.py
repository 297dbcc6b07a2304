"""What this machine has to spare, measured through psutil; the governor and the status ask here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil


@dataclass
class Resources:
    """Measures between two calls; the first call measures since it was made."""

    def __post_init__(self) -> None:
        self._process = psutil.Process()
        self._own = self._own_seconds()
        self._since = time.monotonic()
        psutil.cpu_percent(None)

    def others_cpu(self) -> float:
        """Processor load by everything but this process and its children since the last call, percent."""
        whole = psutil.cpu_percent(None)
        now, own = time.monotonic(), self._own_seconds()
        elapsed = max(now - self._since, 1e-3)
        share = 100.0 * (own - self._own) / elapsed / (os.cpu_count() or 1)
        self._own, self._since = own, now
        return max(0.0, whole - share)

    def free_memory(self) -> int:
        """Bytes that can be had without swapping."""
        return int(psutil.virtual_memory().available)

    def battery(self) -> float | None:
        """Charge in percent while on battery; None on mains or where there is no battery."""
        battery = getattr(psutil, "sensors_battery", lambda: None)()
        return None if battery is None or battery.power_plugged else float(battery.percent)

    def memory(self) -> tuple[int, int]:
        """(RSS, PSS) of this process in bytes; PSS is 0 where the kernel does not tell."""
        info = self._process.memory_full_info()
        return int(info.rss), int(getattr(info, "pss", 0))

    def _own_seconds(self) -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system


def minute_of_day() -> int:
    """Minutes since local midnight."""
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min

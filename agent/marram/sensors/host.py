"""The machine itself as a sensor: load of processor, memory, disks and network, and its temperature."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Annotated, TypeVar

import msgspec

from marram.errors import SensorError
from marram.sensors.polling import poll
from marram.sensors.sensor import SensorConfig, SensorContext
from marram.stream.blocks import Samples

T = TypeVar("T")

CHANNELS = (
    "cpu",
    "memory",
    "swap",
    "load1",
    "disk_read",
    "disk_write",
    "net_received",
    "net_sent",
    "temperature",
)
"""In %: cpu, memory, swap. In B/s: disk_read, disk_write, net_received, net_sent. In degC: temperature."""


class HostConfig(SensorConfig, frozen=True, kw_only=True, tag="host"):
    """The machine's own load.

    rate: readings a second.
    """

    rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 2.0


class HostSensor:
    """Reads psutil at a steady rate.

    Rates (cpu, disk, network) are over the time since the reading before; a counter that went backwards
    (it wrapped, or a device was taken away) reads 0 once and is counted. On a machine without a
    temperature sensor ``temperature`` is a constant 0, so that a model for a mixed fleet can take it; so is
    whatever else the machine does not tell.
    """

    channels = CHANNELS
    live = True

    def __init__(self, config: HostConfig, context: SensorContext, psutil: ModuleType) -> None:
        self.name = config.name
        self.counters = {"wrapped": 0, "late": 0}
        self._rate = config.rate
        self._clock = context.clock
        self._monotonic = context.monotonic
        self._psutil = psutil
        self._totals: tuple[float, dict[str, int]] | None = None

    def read(self, stop: threading.Event) -> Iterator[Samples]:
        self._psutil.cpu_percent(None)
        self._rates(self._monotonic())
        yield from poll(self._values, self._rate, self._clock, self._monotonic, self.counters, stop, block=0)

    def _values(self) -> list[float]:
        p = self._psutil
        values = {
            "cpu": p.cpu_percent(None),
            "memory": p.virtual_memory().percent,
            "swap": _told(lambda: p.swap_memory().percent) or 0.0,
            "load1": _told(lambda: p.getloadavg()[0]) or 0.0,
            "temperature": _told(lambda: _temperature(p)) or 0.0,
            **self._rates(self._monotonic()),
        }
        return [values[channel] for channel in CHANNELS]

    def _rates(self, now: float) -> dict[str, float]:
        disk, net = _told(self._psutil.disk_io_counters), _told(self._psutil.net_io_counters)
        totals = {
            "disk_read": disk.read_bytes if disk else 0,
            "disk_write": disk.write_bytes if disk else 0,
            "net_received": net.bytes_recv if net else 0,
            "net_sent": net.bytes_sent if net else 0,
        }
        before, self._totals = self._totals, (now, totals)
        if before is None or now <= before[0]:
            return dict.fromkeys(totals, 0.0)
        rates = {}
        for channel, total in totals.items():
            rate = (total - before[1][channel]) / (now - before[0])
            if rate < 0:
                self.counters["wrapped"] += 1
                rate = 0.0
            rates[channel] = rate
        return rates


def _told(reading: Callable[[], T]) -> T | None:
    """The reading, or None where this machine has nothing to read."""
    try:
        return reading()
    except (OSError, RuntimeError, AttributeError):
        return None


def _temperature(psutil: ModuleType) -> float:
    """The hottest sensor, in degC; 0 where there is none."""
    readings = [entry.current for entries in psutil.sensors_temperatures().values() for entry in entries]
    return max((float(value) for value in readings if value is not None), default=0.0)


def open(config: HostConfig, context: SensorContext) -> HostSensor:
    """Open the machine's own counters. Raises SensorError when psutil cannot be imported."""
    try:
        import psutil
    except ImportError as error:
        raise SensorError(f"sensor {config.name}: psutil is not installed: {error}") from error
    return HostSensor(config, context, psutil)

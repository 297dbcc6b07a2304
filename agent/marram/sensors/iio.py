"""Sensors with a driver in the kernel's industrial I/O: accelerometers, converters, air, light, current.

Values are asked for one by one, through /sys (Documentation/ABI/testing/sysfs-bus-iio): that needs no rights
to set up a buffer, and is good for some hundred readings a second. A value is (raw + offset) * scale, in the
unit that the kernel documents for its kind: m/s^2 for accelerations, rad/s for turn rates, mV for voltages,
thousandths of a degree Celsius for temperatures.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec

from marram.config.machine import BoardNames
from marram.errors import SensorError
from marram.sensors.polling import poll
from marram.sensors.sensor import SensorConfig, SensorContext
from marram.stream.blocks import Samples

DEVICES = Path("/sys/bus/iio/devices")


class IioConfig(SensorConfig, frozen=True, kw_only=True, tag="iio"):
    """A device of the kernel's industrial I/O, polled.

    device: its name (as in its file ``name``), its folder ("iio:device0"), or one of the board's by name.
    channels: the kernel's name of each channel ("accel_x" for ``in_accel_x_raw``), or a list where both are
    called the same.
    rate: readings a second.
    sampling_frequency: how often the device itself measures, in hertz; by default it is left as it is.
    """

    on_board: ClassVar[dict[str, BoardNames]] = {"device": "iio"}

    device: str
    channels: dict[str, str] | tuple[str, ...]
    rate: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 50.0
    sampling_frequency: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Cross-field mistakes."""
        if not self.channels:
            yield ("channels",), "expected at least one channel, found none"


@dataclass(frozen=True)
class _Channel:
    """Where a channel's value stands, and what it must be multiplied with after the offset was added."""

    path: Path
    offset: float
    scale: float

    def value(self) -> float:
        return (float(self.path.read_text()) + self.offset) * self.scale


class IioSensor:
    """Reads one device's files."""

    live = True

    def __init__(self, config: IioConfig, context: SensorContext, devices: Path) -> None:
        names = config.channels
        mapping = names if isinstance(names, dict) else {name: name for name in names}
        self.name = config.name
        self.channels = tuple(mapping)
        self.counters = {"late": 0}
        self._device = context.board.path("iio", config.device)
        self._kernel_names = tuple(mapping.values())
        self._config, self._devices = config, devices
        self._clock, self._monotonic = context.clock, context.monotonic

    def read(self, stop: threading.Event) -> Iterator[Samples]:
        folder = self._folder()
        channels = [self._channel(folder, name) for name in self._kernel_names]
        if self._config.sampling_frequency is not None:
            self._set_frequency(folder, self._config.sampling_frequency)

        def values() -> list[float]:
            try:
                return [channel.value() for channel in channels]
            except (OSError, ValueError) as error:
                raise SensorError(f"{folder} cannot be read: {error}") from error

        yield from poll(values, self._config.rate, self._clock, self._monotonic, self.counters, stop)

    def _folder(self) -> Path:
        found = {}
        for folder in sorted(self._devices.glob("iio:device*")):
            with suppress(OSError, UnicodeDecodeError):
                found[folder] = (folder / "name").read_text().strip()
        matches = [folder for folder, name in found.items() if self._device in (name, folder.name)]
        if len(matches) == 1:
            return matches[0]
        there = ", ".join(f"{folder.name} ({name})" for folder, name in found.items()) or "none"
        if matches:
            raise SensorError(f"several devices are called {self._device!r}: name one by its folder; {there}")
        raise SensorError(f"there is no industrial I/O device {self._device!r}; there is: {there}")

    def _channel(self, folder: Path, name: str) -> _Channel:
        for kind, scaled in (("raw", True), ("input", False)):
            path = folder / f"in_{name}_{kind}"
            if path.exists():
                if not scaled:  # the driver has done it
                    return _Channel(path, 0.0, 1.0)
                return _Channel(
                    path, self._shared(folder, name, "offset", 0.0), self._shared(folder, name, "scale", 1.0)
                )
        there = sorted(
            path.name[3:].rpartition("_")[0]
            for kind in ("raw", "input")
            for path in folder.glob(f"in_*_{kind}")
        )
        raise SensorError(f"{folder} has no channel {name!r}; it has: {', '.join(there) or 'none'}")

    def _shared(self, folder: Path, name: str, what: str, default: float) -> float:
        """The channel's own, or that of all channels of its kind: in_accel_x_scale, in_accel_scale."""
        while name:
            path = folder / f"in_{name}_{what}"
            if path.exists():
                try:
                    return float(path.read_text())
                except (OSError, ValueError) as error:
                    raise SensorError(f"{path} cannot be read: {error}") from error
            shorter = name.rpartition("_")[0]
            name = shorter or (name.rstrip("0123456789") if name[-1].isdigit() else "")
        return default

    def _set_frequency(self, folder: Path, frequency: float) -> None:
        for path in sorted([folder / "sampling_frequency", *folder.glob("in_*_sampling_frequency")]):
            if not path.exists():
                continue
            try:
                if float(path.read_text()) == frequency:  # the unit may see /sys read-only
                    return
                path.write_text(f"{frequency:g}")
            except (OSError, ValueError) as error:
                readonly = isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES)
                advice = "; set it by a udev rule: the agent may not write to /sys" if readonly else ""
                raise SensorError(f"{path} cannot be set to {frequency:g}: {error}{advice}") from error
            return
        raise SensorError(f"{folder} has no sampling_frequency that could be set")


def open(config: IioConfig, context: SensorContext) -> IioSensor:
    """Opened when it is read: the driver may be loaded later than the daemon starts."""
    return IioSensor(config, context, DEVICES)

"""How hot the machine is and whether it is held back, as Linux tells in sysfs.

Sources: the kernel's Documentation/driver-api/thermal/sysfs-api.rst and hwmon/sysfs-interface.rst; the
Raspberry Pi's ``rpi_volt`` (drivers/hwmon/raspberrypi-hwmon.c), and its firmware's ``get_throttled``.
Roots are parameters: ``sys`` is /sys, or a tree of a test.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_THROTTLED = Path("devices/platform/soc/soc:firmware/get_throttled")
_THROTTLED_BITS = {
    0: "under-voltage now",
    1: "processor frequency capped now",
    2: "throttled now",
    3: "soft temperature limit reached now",
    16: "under-voltage since the start",
    17: "processor frequency capped since the start",
    18: "throttled since the start",
    19: "soft temperature limit reached since the start",
}
_FANS = ("fan", "Fan", "pwm-fan", "gpio-fan")
_ABSURD = (-60.0, 200.0)  # degrees Celsius; what lies beyond is a sensor that does not work


@dataclass(frozen=True)
class Zone:
    """One sensor. name: the zone's type or the hwmon's name. degrees: Celsius.

    limit: the lowest trip point at which the kernel acts (passive, hot, critical), None where there is none.
    """

    name: str
    degrees: float
    limit: float | None = None


@dataclass(frozen=True)
class Cooling:
    """A cooling device that is at work. fan: it costs noise, not speed."""

    name: str
    state: int
    most: int
    fan: bool


def zones(sys: Path, wanted: Collection[str] = ()) -> list[Zone]:
    """The thermal zones, or those of the wanted types; hwmon's temperatures where there is no zone at all."""
    found = [zone for folder in _folders(sys / "class/thermal", "thermal_zone*") if (zone := _zone(folder))]
    if not found:
        found = list(_hwmon_temperatures(sys))
    return [zone for zone in found if not wanted or zone.name in wanted]


def coolings(sys: Path) -> list[Cooling]:
    """Cooling devices that hold something back, or blow, right now."""
    found = []
    for folder in _folders(sys / "class/thermal", "cooling_device*"):
        name, state, most = read(folder / "type"), number(folder / "cur_state"), number(folder / "max_state")
        if name and state is not None and state > 0:
            found.append(Cooling(name, state, most or state, name.startswith(_FANS) or name.endswith("-fan")))
    return found


def under_voltage(sys: Path) -> bool | None:
    """Whether the supply is too weak now; None where nothing measures it."""
    alarms = [
        value
        for folder in _folders(sys / "class/hwmon", "hwmon*")
        for alarm in sorted(folder.glob("in*_lcrit_alarm"))
        if (value := number(alarm)) is not None
    ]
    bits = _throttled_bits(sys)
    if bits is not None:
        alarms.append(bits & 1)
    return any(alarms) if alarms else None


def throttled(sys: Path) -> list[str]:
    """What a Raspberry Pi's firmware says of throttling; nothing on other machines."""
    bits = _throttled_bits(sys) or 0
    return [text for bit, text in _THROTTLED_BITS.items() if bits >> bit & 1]


def read(path: Path) -> str:
    """A sysfs attribute without its line end; "" where it is not there or cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """A sysfs attribute that is a whole number; None where it is not."""
    try:
        return int(read(path))
    except ValueError:
        return None


def _throttled_bits(sys: Path) -> int | None:
    try:
        return int(read(sys / _THROTTLED), 16)
    except ValueError:
        return None


def _zone(folder: Path) -> Zone | None:
    millidegrees = number(folder / "temp")
    if millidegrees is None or not _ABSURD[0] < millidegrees / 1000 < _ABSURD[1]:
        return None
    trips = [
        value / 1000
        for kind in sorted(folder.glob("trip_point_*_type"))
        if read(kind) in ("passive", "hot", "critical")
        if (value := number(kind.with_name(kind.name.replace("_type", "_temp")))) is not None and value > 0
    ]
    return Zone(read(folder / "type") or folder.name, millidegrees / 1000, min(trips, default=None))


def _hwmon_temperatures(sys: Path) -> Iterator[Zone]:
    for folder in _folders(sys / "class/hwmon", "hwmon*"):
        for entry in sorted(folder.glob("temp*_input")):
            value = number(entry)
            if value is not None and _ABSURD[0] < value / 1000 < _ABSURD[1]:
                limit = number(entry.with_name(entry.name.replace("_input", "_crit")))
                yield Zone(
                    read(folder / "name") or folder.name, value / 1000, limit / 1000 if limit else None
                )


def _folders(parent: Path, pattern: str) -> list[Path]:
    try:
        return sorted(parent.glob(pattern))
    except OSError:
        return []

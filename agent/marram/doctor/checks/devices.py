"""May the service open the device files that the sensors name?"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from marram.device.thermal import read
from marram.doctor.finding import Finding, error, ok, warning
from marram.doctor.machine import UNIT, Machine
from marram.system.devices import needs

if TYPE_CHECKING:
    from marram.config.machine import Board
    from marram.sensors.sensor import SensorConfig

_KINDS = ("/dev/", "/sys/")
_DROP_INS = (
    "`marram system dropins` writes what this configuration needs; then `systemctl daemon-reload` and restart"
)


@dataclass(frozen=True)
class User:
    """Who opens the device: the service's user, or whoever runs this."""

    name: str
    uid: int
    gids: frozenset[int]

    def may(self, path: Path, mode: int = os.R_OK) -> bool:
        """As the kernel decides by the mode bits; ACLs are not looked at."""
        if self.uid == 0:
            return True
        about = path.stat()
        shift = 6 if about.st_uid == self.uid else 3 if about.st_gid in self.gids else 0
        return about.st_mode >> shift & mode == mode


def check(machine: Machine) -> Iterator[Finding]:
    if machine.config is None:
        return
    user = service_user(machine)
    for sensor in machine.config.sensors:
        for path in device_files(sensor, machine.config.board):
            yield _look(f"sensor {sensor.name}", path, user, machine)
        for name in iio_devices(sensor, machine.config.board):
            yield _look_iio(f"sensor {sensor.name}", name, user, machine)


def service_user(machine: Machine) -> User:
    """The unit's user with its groups, or the one of this process where there is no unit."""
    name = machine.unit.get("User", "")
    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(os.geteuid())
    except KeyError:
        return User(str(os.geteuid()), os.geteuid(), frozenset(os.getgroups()))
    groups = set(os.getgrouplist(entry.pw_name, entry.pw_gid))
    for group in machine.unit.get("SupplementaryGroups", "").split():
        try:
            groups.add(grp.getgrnam(group).gr_gid)
        except KeyError:
            continue
    return User(entry.pw_name, entry.pw_uid, frozenset(groups))


def device_files(sensor: SensorConfig, board: Board) -> list[Path]:
    """What a sensor's configuration names of /dev or /sys, or by a name of the board's."""
    found: list[Path] = []

    def look(value: object) -> None:
        if isinstance(value, str | Path) and str(value).startswith(_KINDS):
            found.append(Path(value))
        elif isinstance(value, dict):
            look(list(value.values()))
        elif isinstance(value, list | tuple):
            for one in value:
                look(one)
        elif isinstance(value, msgspec.Struct):
            look([getattr(value, field) for field in value.__struct_fields__])

    look(sensor)
    for key, kind in sensor.on_board.items():
        path = board.path(kind, str(getattr(sensor, key)))
        if kind != "iio" and path not in map(str, found):
            found.append(Path(path))
    return found


def iio_devices(sensor: SensorConfig, board: Board) -> list[str]:
    """Devices of the kernel's industrial I/O that a sensor names: their names or folders."""
    return [
        board.path(kind, str(getattr(sensor, key))) for key, kind in sensor.on_board.items() if kind == "iio"
    ]


def _look_iio(name: str, device: str, user: User, machine: Machine) -> Finding:
    there = {one.name: read(one / "name") for one in (machine.sys / "bus/iio/devices").glob("iio:device*")}
    matches = [folder for folder, called in there.items() if device in (folder, called)]
    if not matches:
        listed = ", ".join(f"{folder} ({called})" for folder, called in sorted(there.items())) or "none"
        return error(name, f"there is no industrial I/O device {device!r}; there is: {listed}",
                     "is the chip wired, and its overlay or driver on? `dmesg | grep iio`")  # fmt: skip
    if len(matches) > 1:
        return error(
            name, f"several devices are called {device!r}", f"name one of {', '.join(sorted(matches))}"
        )
    channels = sorted((machine.sys / "bus/iio/devices" / matches[0]).glob("in_*_*"))
    closed = [one.name for one in channels if not user.may(one)]
    if closed:
        return error(
            name, f"{closed[0]} of {matches[0]} may not be read by {user.name}", "a udev rule must open it"
        )
    return ok(name, f"{matches[0]} ({there[matches[0]]}) can be read by {user.name}")


def _look(name: str, path: Path, user: User, machine: Machine) -> Finding:
    if not path.exists():
        return error(name, f"{path} is not there", _missing(path))
    about = path.stat()
    need = os.R_OK | os.W_OK if stat.S_ISCHR(about.st_mode) else os.R_OK
    if not user.may(path, need):
        group = _group(about.st_gid)
        opens = about.st_mode >> 3 & need == need
        return error(
            name,
            f"{path} may not be opened by {user.name} (mode {stat.filemode(about.st_mode)}, group {group})",
            f"the group {group} opens it: {_DROP_INS}; by hand: `usermod -aG {group} {user.name}`"
            if opens
            else "a udev rule must give it a group that may read and write it",
        )
    if _closed(path, about, machine):
        return warning(name, f"{path} is closed to {UNIT} (PrivateDevices or DevicePolicy)", _DROP_INS)
    return ok(name, f"{path} can be opened by {user.name}")


def _missing(path: Path) -> str:
    there = sorted(one.name for one in path.parent.glob(f"{path.name.rstrip('0123456789')}*"))[:8]
    return f"there is: {', '.join(there)}" if there else "is it plugged in, and its driver on? `dmesg` says"


def _closed(path: Path, about: os.stat_result, machine: Machine) -> bool:
    unit = machine.unit
    if not unit or not stat.S_ISCHR(about.st_mode):
        return False
    if unit.get("PrivateDevices") == "yes":
        return True
    policy = unit.get("DevicePolicy", "auto")
    allowed = unit.get("DeviceAllow", "")
    if policy == "auto" and not allowed:
        return False
    return not any(need.allow in allowed.split() for need in needs(str(path), machine.proc / "devices"))


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)

"""What a unit needs to open a device file: the device's class, which stays when it is plugged in again, and
a group.

Told by the device where it is there, and else by its name.
"""

from __future__ import annotations

import grp
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

_CLASSES = (
    (r"ttyUSB\d+", "ttyUSB", "dialout"),
    (r"ttyACM\d+", "ttyACM", "dialout"),
    (r"ttyAMA\d+", "ttyAMA", "dialout"),
    (r"ttyS\d+", "ttyS", "dialout"),
    (r"ttyTHS\d+", "ttyTHS", "dialout"),
    (r"ttymxc\d+", "ttymxc", "dialout"),
    (r"i2c-\d+", "i2c", "i2c"),
    (r"tpmrm\d+", "tpm", "tss"),
)


@dataclass(frozen=True)
class Need:
    """allow: for DeviceAllow=. group: for SupplementaryGroups=, "" where none would help."""

    allow: str
    group: str


def needs(path: str, kinds: Path = Path("/proc/devices")) -> list[Need]:
    """For one device file; several where a link to a device that is not there may lead to any of them."""
    try:
        status = Path(path).stat()
    except OSError:
        return _by_name(path)
    if not stat.S_ISCHR(status.st_mode):
        return []
    named = _kind(os.major(status.st_rdev), kinds)
    return [Need(f"char-{named}" if named else path, _group(status.st_gid))]


def _by_name(path: str) -> list[Need]:
    if re.match(r"^/dev/serial/by-(id|path)/", path):
        found = [one for one in _CLASSES if one[1] in ("ttyUSB", "ttyACM")]
    else:
        found = [one for one in _CLASSES if re.fullmatch(one[0], path.removeprefix("/dev/"))]
    return [Need(f"char-{named}", group if _known(group) else "") for _, named, group in found] or [
        Need(path, "")
    ]


def _kind(major: int, kinds: Path) -> str:
    """The name of a character device's class; "" where the kernel tells none that a unit could take."""
    try:
        text = kinds.read_text().partition("Block devices:")[0]
    except OSError:
        return ""
    names = [
        name for number, name in re.findall(r"^ *(\d+) (\S+)$", text, re.MULTILINE) if int(number) == major
    ]
    return next((name for name in names if not name.startswith("/")), "")


def _group(identity: int) -> str:
    try:
        return grp.getgrgid(identity).gr_name if identity else ""
    except KeyError:
        return ""


def _known(group: str) -> bool:
    """A unit with a group that does not exist would not start."""
    try:
        grp.getgrnam(group)
    except KeyError:
        return False
    return True

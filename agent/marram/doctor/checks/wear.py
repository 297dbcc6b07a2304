"""How worn is the storage, as far as it says so?

eMMC: life_time_est (JEDEC eMMC 5.1, extended CSD 268 and 269: steps of 10 %) and pre_eol_info.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marram.device.thermal import number, read
from marram.doctor.finding import Finding, Severity, error, note, ok, warning
from marram.doctor.machine import Machine

_PRE_END = {1: (Severity.OK, "normal"), 2: (Severity.WARNING, "80 % of its reserve is used"),
            3: (Severity.ERROR, "90 % of its reserve is used")}  # fmt: skip
_REPLACE = "copy what is on it, and replace it soon; lower watch.writes_per_day meanwhile"


def check(machine: Machine) -> Iterator[Finding]:
    written = ((machine.status or {}).get("watch") or {}).get("written", {})
    days = {int(ago): count for ago, count in written.items() if ago != "0"}
    if days:
        mean = sum(days.values()) / max(days)
        yield ok("writes", f"the agent wrote {mean / 2**20:.0f} MiB a day in the last {max(days)} days")
    try:
        disks = sorted((machine.sys / "block").iterdir())
    except OSError:
        return
    for disk in disks:
        if disk.name.startswith("mmcblk") and "boot" not in disk.name:
            yield from _mmc(disk)
        elif disk.name.startswith("nvme"):
            model = read(disk / "device" / "model") or "NVMe"
            yield note(
                disk.name, f"{model}: its wear is not in sysfs", f"`smartctl -A /dev/{disk.name}` shows it"
            )


def _mmc(disk: Path) -> Iterator[Finding]:
    device = disk / "device"
    if number(disk / "ro") == 1:
        yield error(
            disk.name,
            "is read-only",
            "a card that has worn out makes itself read-only: replace it; else look at its switch",
        )
    if read(device / "type") == "SD":
        yield note(disk.name, "is an SD card: such cards do not say how worn they are",
                   "keep watch.writes_per_day low, and a spare card at hand")  # fmt: skip
        return
    used = [int(value, 16) for value in read(device / "life_time").split() if _hexadecimal(value)]
    if not used or not max(used):
        yield note(disk.name, "does not say how worn it is")
    elif max(used) >= 11:
        yield error(disk.name, "has outlived its estimated life", _REPLACE)
    else:
        most = max(used)
        found = f"{10 * (most - 1)} to {10 * most} % of its estimated life is used"
        yield ok(disk.name, found) if most < 9 else warning(disk.name, found, _REPLACE)
    severity, text = _PRE_END.get(_pre_end(device), (Severity.OK, ""))
    if severity > Severity.OK:
        yield Finding(severity, disk.name, text, _REPLACE)


def _pre_end(device: Path) -> int:
    value = read(device / "pre_eol_info")
    return int(value, 16) if _hexadecimal(value) else 0


def _hexadecimal(text: str) -> bool:
    try:
        int(text, 16)
    except ValueError:
        return False
    return True

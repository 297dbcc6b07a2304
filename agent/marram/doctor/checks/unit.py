"""Do the limits of the systemd unit fit what this configuration needs?"""

from __future__ import annotations

from collections.abc import Iterator

from marram.doctor.checks.memory import DAEMON, largest_child
from marram.doctor.finding import Finding, note, ok, warning
from marram.doctor.machine import UNIT, Machine

_IN_SLICE = "MARRAM_WORK="


def check(machine: Machine) -> Iterator[Finding]:
    unit = machine.unit
    if not unit:
        yield note(UNIT, "systemd does not know this unit: the agent is started by hand here")
        return
    yield from _memory(machine)
    if unit.get("Type") not in ("notify", "notify-reload"):
        yield warning(
            UNIT, f"Type={unit.get('Type')}: systemd does not hear when the agent is ready", "Type=notify"
        )
    if unit.get("WatchdogUSec") in ("0", "infinity", "", None):
        yield warning(UNIT, "no watchdog: an agent that hangs is not restarted", "WatchdogSec=60 in the unit")
    if int(unit.get("NRestarts") or 0) > 0:
        yield warning(
            UNIT,
            f"was restarted {unit['NRestarts']} times since it was started",
            f"`journalctl -u {UNIT} -p warning` says why",
        )
    if machine.path.exists() and not str(machine.path.resolve()).startswith("/etc/marram"):
        yield note(UNIT, f"{machine.path} was examined; the unit may use another file", "name it with -c")


def _memory(machine: Machine) -> Iterator[Finding]:
    limit = machine.unit.get("MemoryMax", "infinity")
    if not limit.isdecimal():
        yield ok(UNIT, "has no memory limit")
        return
    most, used = int(limit), (machine.status or {}).get("memory", {}).get("pss") or DAEMON
    child = largest_child(machine) if _IN_SLICE not in machine.unit.get("Environment", "") else 0
    if most < used * 1.25:
        yield warning(
            UNIT,
            f"MemoryMax is {most >> 20} MiB, the agent uses {used >> 20}",
            "raise MemoryMax in a drop-in",
        )
    elif child and most < child:
        yield note(
            UNIT,
            f"MemoryMax is {most >> 20} MiB; one child may take {child >> 20}",
            "set MARRAM_WORK as the unit of the package does, so that children have a slice of their own",
        )
    else:
        yield ok(UNIT, f"MemoryMax {most >> 20} MiB")

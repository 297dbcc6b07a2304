"""Is it too hot, is the processor held back, is the power supply too weak?"""

from __future__ import annotations

from collections.abc import Iterator

from marram.device import thermal
from marram.doctor.finding import Finding, error, note, ok, warning
from marram.doctor.machine import Machine

_MARGIN = 5.0  # degrees below the limit
_COOLER = "more air, a heat sink, a cooler place; training and inference step back by `watch` in the YAML"
_SUPPLY = "a stronger supply and a shorter, thicker cable: a weak one damages cards and loses data"


def check(machine: Machine) -> Iterator[Finding]:
    zones = thermal.zones(machine.sys)
    for zone in zones:
        found = f"{zone.degrees:.0f} degC" + (f", the kernel acts at {zone.limit:.0f}" if zone.limit else "")
        hot = zone.limit is not None and zone.degrees >= zone.limit - _MARGIN
        yield warning(zone.name, found, _COOLER) if hot else ok(zone.name, found)
    wanted = machine.config.board.thermal_zones if machine.config is not None else ()
    missing = [name for name in wanted if name not in {zone.name for zone in zones}]
    if missing:
        there = ", ".join(sorted({zone.name for zone in zones})) or "none"
        yield warning(
            "board.thermal_zones",
            f"{', '.join(missing)}: this machine has no such zone, so it is not watched; it has: {there}",
            "correct board.thermal_zones, or leave it out to watch all",
        )
    if not zones:
        yield note(
            "temperature", "this machine has no thermal zone and no temperature sensor that can be read"
        )
    for cooling in thermal.coolings(machine.sys):
        found = f"at step {cooling.state} of {cooling.most}"
        yield (
            ok(cooling.name, found) if cooling.fan else warning(cooling.name, f"holds back {found}", _COOLER)
        )
    said = thermal.throttled(machine.sys)
    if said:
        yield warning(
            "firmware", ", ".join(said), _SUPPLY if any("voltage" in one for one in said) else _COOLER
        )
    if thermal.under_voltage(machine.sys):
        yield error("power", "under-voltage now", _SUPPLY)

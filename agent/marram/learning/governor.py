"""May training run now? A pure decision over what was measured, with the reason when it may not."""

from __future__ import annotations

from dataclasses import dataclass

from marram.config.schema import Governor
from marram.device.hours import within


@dataclass(frozen=True, slots=True)
class Conditions:
    """What was measured. cpu: load by others, percent. free_memory: bytes. paused: why the watch lets nothing
    train, "" when it does. battery: percent, None on mains. minute: of the local day, 0 to 1439. trainable:
    windows that training could use; seen: those of them that are not held out. new: windows since the last
    training. busy: another training runs.
    """

    cpu: float
    free_memory: int
    paused: str
    battery: float | None
    minute: int
    trainable: int
    seen: int
    new: int
    busy: bool = False


def decide(settings: Governor, conditions: Conditions, minimum: int) -> tuple[bool, str]:
    """(allowed, reason why not). minimum: windows that the round or schedule asks for."""
    for refused, reason in (
        (bool(conditions.paused), conditions.paused),
        (conditions.busy, "another training runs"),
        (conditions.trainable < minimum, f"{conditions.trainable} windows to train on, {minimum} are needed"),
        (conditions.seen < 1, f"all {conditions.trainable} windows so far are held out to evaluate on"),
        (
            conditions.new < settings.min_new_samples,
            f"{conditions.new} new windows since the last training, {settings.min_new_samples} are needed",
        ),
        (
            any(within(conditions.minute, hours) for hours in settings.quiet_hours),
            f"quiet hours ({', '.join(settings.quiet_hours)})",
        ),
        (
            conditions.battery is not None and not settings.on_battery,
            "on battery",
        ),
        (
            conditions.battery is not None and conditions.battery < settings.min_battery,
            f"battery at {conditions.battery or 0:.0f} %, {settings.min_battery:.0f} % are needed",
        ),
        (
            conditions.cpu > settings.max_cpu,
            f"others use {conditions.cpu:.0f} % of the processor, {settings.max_cpu:.0f} % are allowed",
        ),
        (
            conditions.free_memory < settings.min_free_memory,
            f"{conditions.free_memory >> 20} MiB of memory free, {settings.min_free_memory >> 20} are needed",
        ),
    ):
        if refused:
            return False, reason
    return True, ""

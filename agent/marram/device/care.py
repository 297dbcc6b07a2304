"""What the machine must be spared right now: training paused, inference slowed down. Pure.

The limits have a margin: what was stopped above a limit goes on only ``MARGIN`` degrees below it, so that a
machine at its limit does not switch every few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from marram.config.machine import Watch

MARGIN = 5.0  # degrees Celsius


@dataclass(frozen=True)
class Seen:
    """degrees: of the hottest zone, Celsius, None where nothing measures it. under_voltage: None likewise.

    written: bytes in this day.
    """

    degrees: float | None = None
    under_voltage: bool | None = None
    written: int = 0


@dataclass(frozen=True)
class Care:
    """hot, slowed: the hottest zone is above training_below, above full_speed_below. weak: under-voltage.

    worn: more was written today than is allowed.
    """

    hot: bool = False
    slowed: bool = False
    weak: bool = False
    worn: bool = False

    def after(self, seen: Seen, settings: Watch) -> Care:
        """The same, after a look."""
        limit = settings.writes_per_day
        return Care(
            hot=above(self.hot, seen.degrees, settings.training_below),
            slowed=above(self.slowed, seen.degrees, settings.full_speed_below),
            weak=bool(seen.under_voltage),
            worn=limit is not None and seen.written > limit,
        )

    def training_paused(self, settings: Watch) -> str:
        """Why training may not run, "" when it may."""
        if self.hot:
            return f"too hot: it goes on {MARGIN:.0f} degrees below {settings.training_below:g} degC"
        if self.weak and settings.under_voltage == "pause_training":
            return "under-voltage: the supply is too weak"
        return ""

    def duty(self, settings: Watch) -> float:
        """Share of the time that inference may take, 0 to 1."""
        return settings.duty if self.slowed else 1.0


def above(before: bool, degrees: float | None, limit: float | None) -> bool:
    """Whether a limit counts as passed. before: whether it did at the last look."""
    if degrees is None or limit is None:
        return False
    return degrees > limit - MARGIN if before else degrees > limit

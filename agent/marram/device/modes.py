"""Degraded modes by name: what goes on, what stops, and when each begins and ends. Pure.

A mode begins when what causes it has been seen for its ``patience`` and ends when it is not seen any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Mode:
    """goes_on, stops: of the device's work. todo: for its operator. patience: s until it is called so."""

    name: str
    goes_on: str
    stops: str
    todo: str
    patience: float = 0.0


MODES = {
    mode.name: mode
    for mode in (
        Mode(
            "broken-model",
            "sensors, windows and the sample store; releases, which can heal it; what runs instead is named",
            "predictions, unless a copy or an older model runs instead",
            "copy the bundle again, or promote a release; then `marram doctor model`",
        ),
        Mode(
            "disk-full",
            "inference, outputs elsewhere, rounds that need no new files",
            "storing of windows, training; outputs to that disk once nothing is left",
            "make room; it ends by itself",
        ),
        Mode(
            "hot",
            "inference, at its duty above watch.full_speed_below",
            "training, until it is cooler",
            "more air, a cooler place",
        ),
        Mode(
            "no-clock",
            "inference, learning; the time counts on from what has surely passed",
            "TLS connections, as certificates look not valid yet; time stamps are wrong",
            "give the machine a time server, or set its clock",
        ),
        Mode(
            "no-network",
            "inference, learning on the device; one delta waits in the outbox",
            "rounds, releases, renewal of the certificate; outputs over this network",
            "`marram doctor broker`",
            patience=5.0,
        ),
        Mode(
            "no-sensor",
            "the other sensors, and windows that need none of it",
            "windows with channels of that sensor",
            "`marram doctor devices broker`; it is tried again by itself",
        ),
        Mode(
            "under-voltage",
            "inference",
            "training, unless watch.under_voltage is ignore",
            "a stronger supply, a shorter cable",
        ),
        Mode(
            "writes-exceeded",
            "everything",
            "nothing; windows are stored more rarely, and more of them are lost in a power cut",
            "a larger watch.writes_per_day, or less in outputs and learning.store",
        ),
    )
}


@dataclass(frozen=True)
class Change:
    """A mode that begins (with its reason) or ends (reason "")."""

    mode: Mode
    begins: bool
    reason: str = ""


@dataclass(frozen=True)
class Active:
    """since: s, on the clock that ``see`` is given."""

    mode: Mode
    reason: str
    since: float


@dataclass
class Modes:
    """Which modes the device is in. ``see`` is given all that is observed, on a clock that nobody sets."""

    active: dict[str, Active] = field(default_factory=dict)
    _first_seen: dict[str, float] = field(default_factory=dict)

    def see(self, observed: Mapping[str, str], now: float) -> list[Change]:
        """observed: reason by name of the mode. What begins and ends with this, in the order of the names."""
        changes = []
        for name, mode in sorted(MODES.items()):
            reason = observed.get(name)
            if reason is None:
                self._first_seen.pop(name, None)
                if self.active.pop(name, None) is not None:
                    changes.append(Change(mode, begins=False))
                continue
            since = self._first_seen.setdefault(name, now)
            if name in self.active:
                self.active[name] = Active(mode, reason, self.active[name].since)
            elif now - since >= mode.patience:
                self.active[name] = Active(mode, reason, since)
                changes.append(Change(mode, True, reason))
        return changes

    def summary(self) -> str:
        """One line for a service manager."""
        if not self.active:
            return "running"
        return "running with limits: " + "; ".join(
            f"{name} ({one.reason})" for name, one in sorted(self.active.items())
        )

"""The time for a machine whose clock may be wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Unix seconds, never before ``floor()``, which has surely passed: a device may wake in 1970.

    While the machine's clock is behind, time goes on from the floor: whatever waits for a time must not wait
    for ever. machine: Unix seconds. passed: seconds that nobody sets.
    """

    floor: Callable[[], float]
    machine: Callable[[], float] = time.time
    passed: Callable[[], float] = time.monotonic
    _floor: float = field(default=0.0, init=False)
    _time: float = field(default=0.0, init=False)
    _at: float = field(default=0.0, init=False)

    @property
    def behind(self) -> bool:
        """Whether the machine's clock says less than what has surely passed."""
        return self.machine() < self.floor()

    def __call__(self) -> float:
        floor, machine, passed = self.floor(), self.machine(), self.passed()
        if machine >= floor:
            return machine
        running = self._time + passed - self._at
        # A floor that was taken back was wrong, and so is what was counted from it.
        self._time = floor if floor < self._floor else max(floor, running)
        self._floor, self._at = floor, passed
        return self._time

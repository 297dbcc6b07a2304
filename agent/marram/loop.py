"""The daemon's background thread: calls posted from other threads, and members that want to be woken.

Learning, releases and the link's events all run here, one at a time, so none of them needs a lock.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from typing import Protocol

from marram.errors import MarramError

log = logging.getLogger(__name__)

_IDLE = 5.0
_SET_BACK = 60.0


class Member(Protocol):
    """Something with a timer."""

    @property
    def wake_at(self) -> float | None:
        """When ``wake`` is due (Unix s), or None."""
        ...

    def wake(self, now: float) -> None:
        """It is due; early, when the clock was set back."""
        ...


class Loop:
    """See the module's docstring. clock: Unix seconds that are never before a time that surely passed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._calls: queue.SimpleQueue[Callable[[float], None] | None] = queue.SimpleQueue()
        self._members: list[Member] = []
        self._held: dict[int, float] = {}
        self._latest = 0.0
        self.beat = time.monotonic()

    def add(self, member: Member) -> None:
        self._members.append(member)

    def post(self, call: Callable[[float], None]) -> None:
        """Have ``call(now)`` made by the loop's thread."""
        self._calls.put(call)

    def stop(self) -> None:
        """The loop ends after the calls that were posted before."""
        self._calls.put(None)

    def run(self) -> None:
        """Until ``stop``."""
        while True:
            self.beat = time.monotonic()
            try:
                call = self._calls.get(timeout=self._until_wake())
            except queue.Empty:
                self._wake()
                continue
            if call is None:
                return
            self._guard(call)
            self._wake()

    def _until_wake(self) -> float:
        now = self.clock()
        waits = [at - now for member in self._members if (at := self._due(member)) is not None]
        return min(max(min(waits, default=_IDLE), 0.0), _IDLE)

    def _wake(self) -> None:
        now = self.clock()
        # Times that were set by a clock that was wrong would be waited for, perhaps for years.
        set_back, self._latest = now < self._latest - _SET_BACK, now
        if set_back:
            self._held.clear()
            for member in self._members:
                if member.wake_at is not None:
                    self._guard(member.wake)
        for member in self._members:
            at = self._due(member)
            if at is not None and now >= at and not self._guard(member.wake):
                # It may want to be woken at once again; without a pause it would keep the processor busy.
                self._held[id(member)] = now + _IDLE

    def _due(self, member: Member) -> float | None:
        at = member.wake_at
        held = self._held.get(id(member))
        if at is None or held is None:
            return at
        if self.clock() >= held:
            del self._held[id(member)]
        return max(at, held)

    def _guard(self, call: Callable[[float], None]) -> bool:
        """Whether the call went well. One failing part must not take the others with it."""
        try:
            call(self.clock())
        except MarramError as error:
            log.error("%s", error)
        except Exception:
            log.exception("a background task failed")
        else:
            return True
        return False

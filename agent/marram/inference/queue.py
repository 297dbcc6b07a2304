"""The bounded queue between the stream and the model: windows wait here when the model is behind.

A live sensor never waits: the oldest windows are dropped and counted. A replay is held back instead.
"""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np
from numpy.typing import NDArray

from marram.stream.blocks import Windows


class WindowQueue:
    """At most ``limit`` windows, oldest first, with the monotonic time of their arrival."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._blocks: deque[tuple[Windows, float]] = deque()
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self.received = 0
        self.dropped = 0

    def __len__(self) -> int:
        return self._waiting

    def resize(self, limit: int) -> None:
        """Let this many wait from now on; those that are too many go when the next come."""
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def put(self, windows: Windows, live: bool) -> None:
        """Add windows; with ``live`` the oldest make room, else this waits until there is some."""
        with self._changed:
            if live:
                self._append(windows)
                self._drop_oldest()
                return
            while len(windows):
                self._changed.wait_for(lambda: self._closed or self._waiting < self._limit)
                room = len(windows) if self._closed else self._limit - self._waiting
                self._append(windows[slice(0, room)])
                windows = windows[slice(room, None)]

    def take(self, most: int, timeout: float | None = None) -> tuple[Windows, NDArray[np.float64]] | None:
        """Up to ``most`` windows and the arrival time of each; None after ``timeout`` or when closed."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._waiting > 0, timeout):
                return None
            if self._waiting == 0:
                return None
            parts: list[Windows] = []
            arrivals: list[NDArray[np.float64]] = []
            room = most
            while room and self._blocks:
                windows, arrived = self._blocks.popleft()
                part = windows
                if len(windows) > room:
                    part = windows[slice(0, room)]
                    self._blocks.appendleft((windows[slice(room, None)], arrived))
                parts.append(part)
                arrivals.append(np.full(len(part), arrived))
                room -= len(part)
            self._waiting -= most - room
            self._changed.notify_all()
            return Windows.join(parts), np.concatenate(arrivals)

    def close(self) -> None:
        """No one waits any more; what is in the queue can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait; not any longer once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    @property
    def closed(self) -> bool:
        return self._closed

    def _append(self, windows: Windows) -> None:
        self.received += len(windows)
        self._blocks.append((windows, time.monotonic()))
        self._waiting += len(windows)
        self._changed.notify_all()

    def _drop_oldest(self) -> None:
        while self._waiting > self._limit:
            windows, arrived = self._blocks.popleft()
            excess = min(self._waiting - self._limit, len(windows))
            if excess < len(windows):
                self._blocks.appendleft((windows[slice(excess, None)], arrived))
            self._waiting -= excess
            self.dropped += excess

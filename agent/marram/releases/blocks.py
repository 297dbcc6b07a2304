"""A file of the repository over MQTT: which blocks to ask for, what came, when to ask again.

A state machine without I/O (the convention of AWS IoT's streams: the device names the blocks that it lacks in
a bitmap). The link may lose, repeat and reorder; a block that came is never asked for again.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from marram.releases.transport import Range
from marram.wire.messages import Block, Fetch

BLOCK = 4096
_WINDOW = 64
_SILENCE, _LONGEST_SILENCE, _PATIENCE = 5.0, 60.0, 600.0


@dataclass(frozen=True, slots=True)
class Send:
    """Publish this request."""

    fetch: Fetch


@dataclass(frozen=True, slots=True)
class Deliver:
    """Bytes of the file."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """Everything came; or missing: there is no such file; or error: it will not come."""

    missing: bool = False
    error: str = ""


Action = Send | Deliver | Finished


@dataclass
class BlockFetch:
    """One file. ranges: what is wanted of a file of ``size`` bytes; None for all of one of at most ``most``.

    limit: bytes of data that a message may carry. first_id: of the first request; further ones count up.
    """

    file: str
    ranges: Sequence[Range] | None
    size: int
    most: int
    limit: int
    first_id: int
    wake_at: float | None = None
    _block: int = field(init=False)
    _wanted: set[int] = field(init=False)
    _asked: set[int] = field(default_factory=set)
    _id: int = field(init=False)
    _silence: float = _SILENCE
    _heard: float = 0.0
    _size: int | None = None

    def __post_init__(self) -> None:
        self._block = min(BLOCK, self.limit)
        self._id = self.first_id - 1
        if self.ranges is None:
            self._wanted = set(range(_WINDOW))
        else:
            self._size = self.size
            self._wanted = {
                number
                for offset, length in self.ranges
                for number in range(offset // self._block, -(-(offset + length) // self._block))
            }

    def start(self, now: float) -> list[Action]:
        """Ask for the first blocks."""
        self._heard = now
        return self._ask(now)

    def arrived(self, block: Block, now: float) -> list[Action]:
        """Take an answer. One that fits nothing that is wanted changes nothing."""
        if not self.first_id <= block.id <= self._id or self.wake_at is None:
            return []
        if block.missing:
            return self._end(Finished(missing=True)) if self._size is None else []
        if self._size is None:
            if block.size > self.most:
                return self._end(Finished(error=f"has {block.size} bytes, at most {self.most} are expected"))
            self._size = block.size
            self._wanted = set(range(-(-block.size // self._block)))
            self._asked.intersection_update(self._wanted)
        came = self._blocks_of(block)
        if not came and block.size:
            return []
        self._heard, self._silence = now, _SILENCE
        self.wake_at = now + self._silence
        self._asked -= came
        self._wanted -= came
        actions: list[Action] = [Deliver(block.offset, block.data)] if block.data else []
        if not self._wanted:
            return actions + self._end(Finished())
        return actions if self._asked else actions + self._ask(now)

    def wake(self, now: float) -> list[Action]:
        """Nothing came for a while: ask again for what is missing, or give up."""
        if now - self._heard >= _PATIENCE:
            return self._end(Finished(error=f"nothing came for {now - self._heard:.0f} s"))
        self._silence = min(2 * self._silence, _LONGEST_SILENCE)
        return self._ask(now)

    def connected(self, limit: int, now: float) -> list[Action]:
        """The link is up again: what was asked for before may be lost. limit: the broker's, as now."""
        self._silence, self._heard = _SILENCE, now
        self.limit = max(limit, self._block)
        return self._ask(now)

    def _blocks_of(self, block: Block) -> set[int]:
        """Numbers of the whole blocks in an answer that were wanted."""
        end = block.offset + len(block.data)
        whole = end % self._block == 0 or end == self._size
        if block.size != self._size or block.offset % self._block or end > block.size or not whole:
            return set()
        first = block.offset // self._block
        numbers = set(range(first, first + -(-len(block.data) // self._block)))
        return numbers if numbers <= self._wanted else set()

    def _ask(self, now: float) -> list[Action]:
        self._id += 1
        window = heapq.nsmallest(_WINDOW, self._wanted)
        first = window[0] if window else 0
        self._asked = {number for number in window if number - first < 8 * 8192}
        bitmap = bytearray(-(-(max(self._asked, default=first) - first + 1) // 8))
        for number in self._asked:
            bitmap[(number - first) // 8] |= 1 << (number - first) % 8
        self.wake_at = now + self._silence
        return [Send(Fetch(self._id, self.file, self._block, first, bytes(bitmap), self.limit))]

    def _end(self, finished: Finished) -> list[Action]:
        self.wake_at = None
        return [finished]

    @property
    def next_id(self) -> int:
        """For the next file's first request."""
        return self._id + 1

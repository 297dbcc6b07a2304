"""The model's clock: samples with jitter, gaps and different rates become ticks of one even grid.

A run begins on a sample and goes on at ``rate`` until no sensor has given a sample for longer than
``max_gap``. A sample within a tenth of a period of its tick passes through bit for bit; between samples
lies a straight line. A sensor that is behind is waited for, but no longer than ``max_gap``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marram.stream.blocks import UNLABELLED

TOLERANCE = 0.1
"""How far from its tick a sample may lie to pass through, in periods."""

Values = NDArray[np.float32]
Flags = NDArray[np.bool_]
Times = NDArray[np.float64]
Codes = NDArray[np.int16]


@dataclass(slots=True)
class Ticks:
    """Consecutive ticks of one run; tick k is at ``origin + k / rate``.

    values: float32 (channels, n), NaN where missing. flagged: bool (n,). codes: int16 (n,), labels.
    new_run: these are the first ticks of a run.
    """

    origin: float
    first: int
    new_run: bool
    values: Values
    flagged: Flags
    codes: Codes


class _Track:
    """The samples of one sensor that later ticks may still need."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = list(rows)
        self.ended = False
        self.newest = -math.inf
        self.clear()

    def clear(self) -> None:
        self.time: Times = np.empty(0)
        self.values: Values = np.empty((len(self.rows), 0), dtype=np.float32)
        self.flagged: Flags = np.empty(0, dtype=np.bool_)
        self.codes: Codes = np.empty(0, dtype=np.int16)

    def append(self, time: Times, values: Values, flagged: Flags, codes: Codes) -> None:
        if self.time.size:
            self.time = np.concatenate((self.time, time))
            self.values = np.concatenate((self.values, values), axis=1)
            self.flagged = np.concatenate((self.flagged, flagged))
            self.codes = np.concatenate((self.codes, codes))
        else:
            self.time, self.values, self.flagged, self.codes = time, values, flagged, codes

    def drop(self, count: int) -> None:
        if count > 0:
            # Copies of the little that stays, so that a kept sample does not keep its whole block alive.
            self.time = self.time[count:].copy()
            self.values = self.values[:, count:].copy()
            self.flagged = self.flagged[count:].copy()
            self.codes = self.codes[count:].copy()


class Clock:
    """Puts the samples of all sensors on one grid.

    rate: ticks a second. tracks: sensor name to the rows of the model's channels that it fills. max_gap:
    seconds. replays: sensors that are waited for without limit, because their time is not the wall's.
    """

    def __init__(
        self,
        rate: float,
        tracks: Mapping[str, Sequence[int]],
        max_gap: float,
        replays: Collection[str] = (),
    ) -> None:
        self.counters = {"gaps": 0, "duplicates": 0, "backwards": 0, "clock_steps": 0, "late": 0}
        self._rate = rate
        self._tolerance = TOLERANCE / rate
        self._max_gap = max_gap
        self._tracks = {name: _Track(rows) for name, rows in tracks.items()}
        self._replays = frozenset(replays)
        self._channels = sum(len(rows) for rows in tracks.values())
        self._origin: float | None = None
        self._next = 0
        self._since = math.inf

    def push(self, sensor: str, time: Times, values: Values, flagged: Flags, codes: Codes) -> list[Ticks]:
        """Take samples of one sensor: (n,), (channels of the track, n), (n,), (n,). Ticks that are due."""
        track = self._tracks[sensor]
        if _increasing(time, track.newest):
            return self._take(track, time, values, flagged, codes)
        out: list[Ticks] = []
        finite = np.isfinite(time)
        self.counters["backwards"] += int(np.count_nonzero(~finite))
        time, values, flagged, codes = time[finite], values[:, finite], flagged[finite], codes[finite]
        while time.size:
            high = np.maximum.accumulate(np.concatenate(([track.newest], time)))[:-1]
            steps = np.flatnonzero(time < high - self._max_gap)
            end = int(steps[0]) if steps.size else time.size
            part = slice(0, end)
            keep = time[part] > high[part]
            duplicates = int(np.count_nonzero(time[part] == high[part]))
            self.counters["duplicates"] += duplicates
            self.counters["backwards"] += end - int(np.count_nonzero(keep)) - duplicates
            out += self._take(
                track, time[part][keep], values[:, part][:, keep], flagged[part][keep], codes[part][keep]
            )
            if steps.size:
                # The clock was set back: waiting until it catches up could last for years.
                self.counters["clock_steps"] += 1
                out += self.flush()
            time, values, flagged, codes = time[end:], values[:, end:], flagged[end:], codes[end:]
        return out

    def ended(self, sensor: str) -> list[Ticks]:
        """No more samples of this sensor: the others need not wait for it."""
        self._tracks[sensor].ended = True
        return self._advance()

    def flush(self) -> list[Ticks]:
        """The ticks that can still be made; then everything begins anew."""
        out = self._advance(final=True)
        for track in self._tracks.values():
            track.clear()
            track.newest = -math.inf
        self._origin, self._since = None, math.inf
        return out

    def ahead(self, sensor: str) -> float:
        """Seconds by which this sensor is ahead of the slowest one that is waited for."""
        newest = self._tracks[sensor].newest
        slowest = self._ready()
        return newest - slowest if math.isfinite(newest) and newest > slowest else 0.0

    def _take(self, track: _Track, time: Times, values: Values, flagged: Flags, codes: Codes) -> list[Ticks]:
        if not time.size:
            return []
        # A sample between the newest tick and the next one is not late: the next one is drawn from it.
        if self._origin is not None and time[0] < (made := self._time(self._next - 1) - self._tolerance):
            self.counters["late"] += int(np.searchsorted(time, made))
        track.append(time, values, flagged, codes)
        track.newest = float(time[-1])
        track.ended = False
        self._since = min(self._since, float(time[0]))
        return self._advance()

    def _time(self, tick: int) -> float:
        assert self._origin is not None
        return self._origin + tick / self._rate

    def _advance(self, final: bool = False) -> list[Ticks]:
        out: list[Ticks] = []
        while True:
            until = self._ready(final)
            if self._origin is None and not self._begin(until, final):
                return out
            end = self._run_end(until)
            ticks = self._emit(until if end is None else end)
            if ticks is not None:
                out.append(ticks)
            if end is None:
                self._trim()
                return out
            self.counters["gaps"] += 1
            for track in self._tracks.values():
                track.drop(int(np.searchsorted(track.time, end, side="right")))
            self._origin = None

    def _ready(self, final: bool = False) -> float:
        """The time up to which every sensor that is waited for has spoken."""
        newest = max(track.newest for track in self._tracks.values())
        if final:
            return newest
        waited = [newest]
        for name, track in self._tracks.items():
            if track.ended:
                continue
            if name in self._replays:
                waited.append(track.newest)
                continue
            heard = track.newest if math.isfinite(track.newest) else self._since
            if newest - heard <= self._max_gap:
                waited.append(track.newest)
        return min(waited)

    def _begin(self, until: float, final: bool) -> bool:
        """Set the origin of a run where there is enough for one."""
        alive = [track for track in self._tracks.values() if track.time.size and track.newest >= until]
        if not alive or (not math.isfinite(until) and not final):
            return False
        if len(alive) > 1 and not final and any(track.time.size < 2 and not track.ended for track in alive):
            return False
        begin = max(float(track.time[0]) for track in alive)
        leader = min(alive, key=self._strangeness)
        index = int(np.searchsorted(leader.time, begin))
        if index == leader.time.size:
            if not final:
                return False
            self._origin = begin
        else:
            self._origin = float(leader.time[index])
        self._next = 0
        return True

    def _strangeness(self, track: _Track) -> float:
        """How far a sensor's own rate is from the grid's: the nearest sets the phase.

        Its first two samples tell, so that the phase does not depend on how many came in the first block.
        """
        if track.time.size < 2:
            return math.inf
        return round(abs(math.log(float(track.time[1] - track.time[0]) * self._rate)), 3)

    def _run_end(self, until: float) -> float | None:
        """The last sample before the first stretch without any, or None."""
        times = [
            track.time[: np.searchsorted(track.time, until, side="right")] for track in self._tracks.values()
        ]
        merged = times[0] if len(times) == 1 else np.sort(np.concatenate(times))
        if merged.size < 2 or merged[-1] - merged[0] <= self._max_gap:
            return None
        gaps = np.flatnonzero(np.diff(merged) > self._max_gap)
        return float(merged[gaps[0]]) if gaps.size else None

    def _emit(self, until: float) -> Ticks | None:
        assert self._origin is not None
        first, last = self._next, self._last_tick(until)
        if last < first:
            return None
        tick = self._origin + np.arange(first, last + 1) / self._rate
        parts = [(track, *self._resample(track, tick)) for track in self._tracks.values()]
        if len(parts) == 1 and parts[0][0].rows == list(range(self._channels)):
            _, values, flagged, codes = parts[0]
        else:
            values = np.empty((self._channels, tick.size), dtype=np.float32)
            flagged = np.zeros(tick.size, dtype=np.bool_)
            codes = np.full(tick.size, UNLABELLED, dtype=np.int16)
            for track, part, part_flagged, part_codes in parts:
                values[track.rows] = part
                flagged |= part_flagged
                codes = np.where(codes == UNLABELLED, part_codes, codes)
        self._next = last + 1
        return Ticks(self._origin, first, first == 0, values, flagged, codes)

    def _last_tick(self, until: float) -> int:
        """The last tick that has a sample at ``until``, by the very comparison that finds the sample."""
        assert self._origin is not None
        guess = math.floor((until - self._origin) * self._rate + TOLERANCE)
        return max(
            tick for tick in range(guess - 1, guess + 2) if self._time(tick) - self._tolerance <= until
        )

    def _resample(self, track: _Track, tick: Times) -> tuple[Values, Flags, Codes]:
        """The track at the ticks: (channels of the track, n), (n,), (n,)."""
        time, n, size = track.time, track.time.size, tick.size
        start = int(np.searchsorted(time, tick[0] - self._tolerance))
        same = slice(start, start + size)
        if (
            start + size <= n
            and ((time[same] >= tick - self._tolerance) & (time[same] <= tick + self._tolerance)).all()
        ):
            return track.values[:, same], track.flagged[same], track.codes[same]
        values = np.full((len(track.rows), size), np.nan, dtype=np.float32)
        flagged = np.zeros(size, dtype=np.bool_)
        codes = np.full(size, UNLABELLED, dtype=np.int16)
        if not n:
            return values, flagged, codes
        right = np.searchsorted(time, tick - self._tolerance)
        left = np.maximum(right - 1, 0)
        within = right < n
        right = np.minimum(right, n - 1)
        near = within & (time[right] <= tick + self._tolerance)
        between = within & ~near & (right > 0) & (time[right] - time[left] <= self._max_gap)

        values[:, near] = track.values[:, right[near]]
        flagged[near] = track.flagged[right[near]]
        codes[near] = track.codes[right[near]]

        low, high = left[between], right[between]
        weight = (tick[between] - time[low]) / (time[high] - time[low])
        before = track.values[:, low].astype(np.float64)
        values[:, between] = before + (track.values[:, high] - before) * weight
        flagged[between] = track.flagged[low] | track.flagged[high]
        codes[between] = np.where(weight < 0.5, track.codes[low], track.codes[high])
        return values, flagged, codes

    def _trim(self) -> None:
        """Forget samples that no later tick can need: all before the left neighbour of the next tick."""
        due = self._time(self._next)
        for track in self._tracks.values():
            if track.time.size and track.time[-1] < due - self._max_gap - self._tolerance:
                track.clear()
            else:
                track.drop(int(np.searchsorted(track.time, due - self._tolerance)) - 1)


def _increasing(time: Times, newest: float) -> bool:
    """Whether the block is strictly increasing, finite, and after the newest sample."""
    return bool(
        not time.size
        or (time[0] > newest and np.isfinite(time[-1]) and (time.size == 1 or (time[1:] > time[:-1]).all()))
    )

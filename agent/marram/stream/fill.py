"""Holes on the model's clock: repaired, flagged, marked for dropping, or the end of a run.

interpolate: a line between the neighbours of a hole up to ``max_gap`` long; ticks wait for the hole's end.
hold: the value before, up to ``max_gap``. flag: the value before, however long. drop: the tick is marked.
A hole that cannot be repaired ends the run, and its ticks are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marram.stream.clock import Codes, Flags, Ticks, Values
from marram.stream.config import Missing

Positions = NDArray[np.int64]

_FAR = 1 << 60


@dataclass(slots=True)
class Segment:
    """Consecutive ticks of one run, without NaN.

    values: float32 (channels, n). repaired: bool (n,). missing: bool (n,), ticks whose windows are to be
    dropped. codes: int16 (n,). Tick k is at ``origin + k / rate``; the first is ``first``.
    """

    origin: float
    first: int
    new_run: bool
    values: Values
    repaired: Flags
    missing: Flags
    codes: Codes


class Filler:
    """Fills the holes of one stream of ticks."""

    def __init__(self, channels: Sequence[str], rate: float, max_gap: float, mode: Missing) -> None:
        self._channels = list(channels)
        self._filled = np.zeros(len(self._channels), dtype=np.int64)
        self._lost = np.zeros(len(self._channels), dtype=np.int64)
        self._limit = math.floor(max_gap * rate + 1e-6)
        self._mode = mode
        # Per channel: the last good value, and how many ticks lie between it and the next block.
        self._anchor = np.zeros(len(self._channels), dtype=np.float32)
        self._age: Positions = np.full(len(self._channels), _FAR, dtype=np.int64)
        self._pending: Ticks | None = None
        self._new_run = True

    @property
    def counters(self) -> dict[str, int]:
        """Ticks by channel: ``"ax.filled"`` were repaired, ``"ax.lost"`` could not be."""
        return {
            f"{channel}.{kind}": int(count)
            for kind, counts in (("filled", self._filled), ("lost", self._lost))
            for channel, count in zip(self._channels, counts, strict=True)
        }

    def push(self, ticks: Ticks) -> list[Segment]:
        """Take ticks in their order; the segments that are decided."""
        if ticks.new_run:
            self.flush()
        elif self._pending is not None:
            ticks = _join(self._pending, ticks)
        self._pending = None
        holes = np.isnan(ticks.values)
        if not holes.any():
            self._anchor = ticks.values[:, -1].copy()
            self._age[:] = 0
            none = np.zeros(ticks.flagged.size, dtype=np.bool_)
            return self._segments(ticks, ticks.values, ticks.flagged, none, none)
        return self._repair(ticks, holes)

    def flush(self) -> None:
        """Give up what waits for the end of a hole; the next ticks begin a run."""
        if self._pending is not None:
            self._lost += np.isnan(self._pending.values).sum(axis=1)
            self._pending = None
        if self._mode != "flag":
            self._age[:] = _FAR
        self._new_run = True

    def _repair(self, ticks: Ticks, holes: Flags) -> list[Segment]:
        count = holes.shape[1]
        values, repaired = ticks.values.copy(), ticks.flagged.copy()
        missing, bad = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
        lefts = np.tile(np.arange(count), (len(self._channels), 1))
        outcome = []
        cut = count
        for channel in np.flatnonzero(holes.any(axis=1)):
            hole = np.flatnonzero(holes[channel])
            left, right = self._neighbours(holes[channel], int(self._age[channel]))
            lefts[channel] = left
            good, waits = self._judge(hole, left[hole], right[hole], count)
            outcome.append((int(channel), hole, good))
            if waits.any():
                cut = min(cut, int(hole[np.argmax(waits)]))
            self._write(values[channel], hole[good], left, right, self._anchor[channel])
        for row, hole, good in outcome:
            decided = hole < cut
            fixed, lost = hole[good & decided], hole[~good & decided]
            if self._mode == "drop":
                missing[hole] = True
                values[row, hole] = 0
                self._lost[row] += lost.size
                continue
            repaired[fixed] = True
            bad[lost] = True
            self._filled[row] += fixed.size
            self._lost[row] += lost.size
        self._remember(ticks.values, lefts, cut)
        if cut < count:
            self._pending = _part(ticks, slice(cut, count))
        return self._segments(ticks, values, repaired, missing, bad[:cut])

    @staticmethod
    def _neighbours(holes: Flags, age: int) -> tuple[Positions, Positions]:
        """For each tick the position of the good tick at or before it, and at or after it."""
        position = np.arange(holes.size)
        left = np.maximum.accumulate(np.where(holes, -1 - age, position))
        right = np.minimum.accumulate(np.where(holes, _FAR, position)[::-1])[::-1]
        return left, right

    def _judge(self, hole: Positions, left: Positions, right: Positions, count: int) -> tuple[Flags, Flags]:
        """(can be repaired, may yet be repaired) for each missing tick."""
        never = np.zeros(hole.size, dtype=np.bool_)
        if self._mode == "drop":
            return never, never
        if self._mode == "flag":
            return left > -_FAR, never
        if self._mode == "hold":
            return hole - left <= self._limit, never
        return right - left <= self._limit, (right == _FAR) & (count - left <= self._limit)

    def _write(
        self, row: Values, hole: Positions, left: Positions, right: Positions, anchor: np.float32
    ) -> None:
        before = left[hole]
        low = np.where(before >= 0, row[np.maximum(before, 0)], anchor)
        if self._mode == "interpolate":
            after = right[hole]
            weight = (hole - before) / (after - before)
            row[hole] = low + (row[after].astype(np.float64) - low) * weight
        else:
            row[hole] = low

    def _remember(self, values: Values, lefts: Positions, cut: int) -> None:
        if not cut:
            return
        left = lefts[:, cut - 1]
        inside = left >= 0
        channel = np.arange(left.size)
        self._anchor = np.where(inside, values[channel, np.maximum(left, 0)], self._anchor)
        self._age = np.minimum(cut - 1 - left, _FAR)

    def _segments(
        self, ticks: Ticks, values: Values, repaired: Flags, missing: Flags, bad: Flags
    ) -> list[Segment]:
        """The stretches without bad ticks; each after a bad one begins a run."""
        edges = np.flatnonzero(np.diff(np.concatenate(([True], bad, [True]))))
        segments = []
        end = 0
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            segments.append(
                Segment(
                    ticks.origin,
                    ticks.first + start,
                    self._new_run or start > end,
                    values[:, start:stop],
                    repaired[start:stop],
                    missing[start:stop],
                    ticks.codes[start:stop],
                )
            )
            end, self._new_run = stop, False
        self._new_run = self._new_run or end < bad.size
        return segments


def _part(ticks: Ticks, part: slice) -> Ticks:
    return Ticks(
        ticks.origin,
        ticks.first + part.start,
        ticks.new_run and part.start == 0,
        ticks.values[:, part].copy(),
        ticks.flagged[part].copy(),
        ticks.codes[part].copy(),
    )


def _join(one: Ticks, two: Ticks) -> Ticks:
    return Ticks(
        one.origin,
        one.first,
        one.new_run,
        np.concatenate((one.values, two.values), axis=1),
        np.concatenate((one.flagged, two.flagged)),
        np.concatenate((one.codes, two.codes)),
    )

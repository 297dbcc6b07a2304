"""Windows of a fixed length, every ``stride`` ticks, from tick 0 of each run; none spans a gap."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from marram.stream.blocks import Windows
from marram.stream.fill import Segment
from marram.stream.labels import majority


class Windower:
    """Cuts segments into windows and carries the tail from block to block.

    length, stride: ticks. counters: windows made, and windows dropped for a missing value.
    """

    def __init__(self, channels: int, rate: float, length: int, stride: int) -> None:
        self.counters = {"windows": 0, "windows_dropped": 0}
        self._channels = channels
        self._rate = rate
        self._length = length
        self._stride = stride
        self._tail: Segment | None = None
        self._skip = 0

    def empty(self) -> Windows:
        """No windows."""
        return Windows(
            np.empty(0),
            np.empty(0),
            np.empty((0, self._channels, self._length), dtype=np.float32),
            np.empty(0, dtype=np.int16),
            np.empty(0, dtype=np.bool_),
        )

    def push(self, segment: Segment) -> Windows:
        """The windows that the segment completes."""
        if segment.new_run:
            self._tail, self._skip = None, 0
        if self._tail is not None:
            segment = _join(self._tail, segment)
        ticks = segment.repaired.size
        count = max(0, (ticks - self._skip - self._length) // self._stride + 1)
        begin = self._skip
        # A stride longer than the window leaves ticks out, some of which may be yet to come.
        rest = begin + count * self._stride
        self._skip = max(0, rest - ticks)
        self._tail = _part(segment, min(rest, ticks)) if rest < ticks else None
        if not count:
            return self.empty()
        return self._cut(segment, begin, count)

    def reset(self) -> None:
        """Forget the tail; the next segment begins a run."""
        self._tail, self._skip = None, 0

    def _cut(self, segment: Segment, begin: int, count: int) -> Windows:
        length, stride = self._length, self._stride
        part = slice(begin, begin + (count - 1) * stride + length)
        views = sliding_window_view(segment.values[:, part], length, axis=1)[:, ::stride]
        first = segment.first + begin + np.arange(count) * stride
        windows = Windows(
            segment.origin + first / self._rate,
            segment.origin + (first + length - 1) / self._rate,
            np.ascontiguousarray(views.transpose(1, 0, 2), dtype=np.float32),
            majority(segment.codes[part], length, stride),
            _any(segment.repaired[part], length, stride),
        )
        dropped = _any(segment.missing[part], length, stride)
        if dropped.any():
            self.counters["windows_dropped"] += int(np.count_nonzero(dropped))
            keep = ~dropped
            windows = Windows(
                windows.start[keep],
                windows.end[keep],
                windows.values[keep],
                windows.labels[keep],
                windows.repaired[keep],
            )
        self.counters["windows"] += len(windows)
        return windows


def _any(
    flags: np.ndarray[tuple[int], np.dtype[np.bool_]], length: int, stride: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    if not flags.any():
        return np.zeros((flags.size - length) // stride + 1, dtype=np.bool_)
    total = np.concatenate(([0], np.cumsum(flags)))
    return (total[length:] > total[:-length])[::stride]


def _join(one: Segment, two: Segment) -> Segment:
    return Segment(
        one.origin,
        one.first,
        one.new_run,
        np.concatenate((one.values, two.values), axis=1),
        np.concatenate((one.repaired, two.repaired)),
        np.concatenate((one.missing, two.missing)),
        np.concatenate((one.codes, two.codes)),
    )


def _part(segment: Segment, start: int) -> Segment:
    return Segment(
        segment.origin,
        segment.first + start,
        segment.new_run,
        segment.values[:, start:].copy(),
        segment.repaired[start:].copy(),
        segment.missing[start:].copy(),
        segment.codes[start:].copy(),
    )

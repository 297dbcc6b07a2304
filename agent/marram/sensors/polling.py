"""A reading at a steady rate, for sensors that have to be asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np

from marram.errors import SensorError
from marram.stream.blocks import Samples


def poll(
    read: Callable[[], list[float]],
    rate: float,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    counters: dict[str, int],
    stop: threading.Event,
    block: float = 0.1,
) -> Iterator[Samples]:
    """Blocks of readings, each of at most ``block`` seconds.

    read: a value for each channel. rate: readings a second. clock, monotonic: seconds. counters: ticks that
    were lost because the machine slept or was starved are counted as "late", their phase is kept.
    """
    period = 1.0 / rate
    start, tick = monotonic(), 0
    times: list[float] = []
    rows: list[list[float]] = []
    try:
        while True:
            tick += 1
            behind = monotonic() - (start + tick * period)
            if behind > period:
                skipped = int(behind / period)
                tick += skipped
                counters["late"] += skipped
            if stop.wait(max(0.0, start + tick * period - monotonic())):
                break
            rows.append(read())
            times.append(clock())
            if len(times) * period >= block:
                yield _samples(times, rows)
                times, rows = [], []
    except SensorError:
        if times:
            yield _samples(times, rows)
        raise
    if times:
        yield _samples(times, rows)


def _samples(times: list[float], rows: list[list[float]]) -> Samples:
    return Samples(np.array(times, np.float64), np.ascontiguousarray(np.array(rows, np.float32).T))

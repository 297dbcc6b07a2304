"""Cleaning one sensor's samples: units, missing values, impossible values, stuck sensors.

What comes out is in the model's units, NaN where a value is missing, with a flag on every sample that was
changed or is doubted. Filling the holes comes later, on the model's clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from marram.stream.config import ChannelConfig
from marram.stream.sources import Source

Values = NDArray[np.float32]
Flags = NDArray[np.bool_]
Times = NDArray[np.float64]


class Cleaner:
    """Cleans the samples of one sensor; remembers what the stuck rule needs from block to block."""

    def __init__(self, sources: Sequence[Source], max_gap: float) -> None:
        self._channels = [_Channel(source, max_gap) for source in sources]

    @property
    def counters(self) -> dict[str, int]:
        """Samples by channel and kind: ``"ax.missing"``, ``"ax.out_of_range"``, ``"ax.stuck"``."""
        return {
            f"{channel.name}.{kind}": count
            for channel in self._channels
            for kind, count in channel.counters.items()
        }

    def clean(self, time: Times, values: Values) -> tuple[Values, Flags]:
        """(values (channels of the model, n), flagged (n,)) of samples (channels of the sensor, n)."""
        cleaned = np.empty((len(self._channels), time.size), dtype=np.float32)
        flagged = np.zeros(time.size, dtype=np.bool_)
        for row, channel in zip(cleaned, self._channels, strict=True):
            channel.clean(time, values[channel.row], row, flagged)
        return cleaned, flagged


class _Channel:
    def __init__(self, source: Source, max_gap: float) -> None:
        self.name = source.channel
        self.row = source.sensor_row
        self.counters = {"missing": 0, "out_of_range": 0, "stuck": 0}
        self._config = source.config
        self._stuck = None
        if source.config.stuck_after is not None:
            self._stuck = _StuckRule(source.config.stuck_after, max_gap)

    def clean(self, time: Times, raw: Values, row: Values, flagged: Flags) -> None:
        """Write the cleaned channel to ``row`` and add to ``flagged``, both (n,)."""
        config = self._config
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(raw, np.float32(config.scale), out=row)
            if config.offset:
                row += np.float32(config.offset)
        present = np.isfinite(row)
        if not present.all():
            row[~present] = np.nan
            self.counters["missing"] += int(np.count_nonzero(~present))
        self._range(row, flagged, config)
        if self._stuck is not None:
            stuck = self._stuck.find(time, raw)
            self.counters["stuck"] += int(np.count_nonzero(stuck))
            if config.stuck == "missing":
                row[stuck] = np.nan
            else:
                flagged |= stuck

    def _range(self, row: Values, flagged: Flags, config: ChannelConfig) -> None:
        low = np.float32(-np.inf if config.min is None else config.min)
        high = np.float32(np.inf if config.max is None else config.max)
        if config.min is None and config.max is None:
            return
        outside = (row < low) | (row > high)
        count = int(np.count_nonzero(outside))
        if not count:
            return
        self.counters["out_of_range"] += count
        if config.out_of_range == "missing":
            row[outside] = np.nan
            return
        flagged |= outside
        if config.out_of_range == "clip":
            np.clip(row, low, high, out=row)


class _StuckRule:
    """Finds samples whose raw value has been the same for longer than a time."""

    def __init__(self, after: float, max_gap: float) -> None:
        self._after = after
        self._max_gap = max_gap
        self._value = np.float32(np.nan)
        self._since = self._newest = -np.inf

    def find(self, time: Times, raw: Values) -> Flags:
        """bool (n,): true from the moment on at which the value has lasted too long."""
        if not time.size:
            return np.zeros(0, dtype=np.bool_)
        before = np.concatenate(([self._value], raw[:-1]))
        step = np.diff(time, prepend=self._newest)
        # NaN differs from NaN, so a missing value begins anew. A gap and a clock that went back do too.
        begins = (raw != before) | (step > self._max_gap) | (step < 0)
        index = np.maximum.accumulate(np.where(begins, np.arange(time.size), -1))
        since = np.where(index >= 0, time[index], self._since)
        self._value, self._since, self._newest = raw[-1], float(since[-1]), float(time[-1])
        stuck: Flags = time - since > self._after
        return stuck

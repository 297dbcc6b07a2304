"""The whole way from samples to windows, for all sensors of one model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from marram.errors import SensorError
from marram.stream.blocks import UNLABELLED, Samples, Windows
from marram.stream.clean import Cleaner
from marram.stream.clock import Clock, Ticks
from marram.stream.config import StreamConfig
from marram.stream.fill import Filler
from marram.stream.labels import LabelEncoder, LabelTrack
from marram.stream.sources import resolve
from marram.stream.windows import Windower


class Stream:
    """Samples of several sensors in, windows of one model out. The caller locks.

    channels, rate, length, stride, labels: the model's, rate in Hz, length and stride in ticks. sensors:
    name to its channels. replays: sensors whose time is not the wall's and that are therefore waited for
    without limit; call ``ended`` when one ends, and hold one back that is far ``ahead``. label_track: spans
    of time with a label, which win over a sensor's label column. Raises ConfigError for channels without
    a source.
    """

    def __init__(
        self,
        channels: Sequence[str],
        rate: float,
        length: int,
        stride: int,
        labels: Sequence[str],
        sensors: Mapping[str, Sequence[str]],
        config: StreamConfig,
        *,
        replays: Collection[str] = (),
    ) -> None:
        sources = resolve(channels, sensors, config)
        # Of all that a run of windows depends on; a channel's limits are no part of it.
        self._layout = (
            {name: [(one.row, one.sensor_row) for one in parts] for name, parts in sources.items()},
            config.max_gap,
            config.missing,
            sorted(replays),
        )
        self._sources = sources
        self._before: dict[str, int] = {}
        tracks = {name: [source.row for source in parts] for name, parts in sources.items()}
        self.label_track = LabelTrack(labels)
        self._widths = {name: len(offered) for name, offered in sensors.items()}
        self._cleaners = {name: Cleaner(parts, config.max_gap) for name, parts in sources.items()}
        self._clock = Clock(rate, tracks, config.max_gap, replays)
        self._filler = Filler(channels, rate, config.max_gap, config.missing)
        self._windower = Windower(len(channels), rate, length, stride)
        self._encoder = LabelEncoder(labels)

    def push(self, sensor: str, samples: Samples) -> Windows:
        """Take samples of one sensor; the windows that they complete (possibly none).

        values are float32 (n, channels, length), C-contiguous, in the model's channel order. Raises
        SensorError where the samples do not have the sensor's shape.
        """
        width, count = self._widths.get(sensor), len(samples)
        if samples.values.shape != (width, count):
            raise SensorError(
                f"sensor {sensor}: expected values of shape ({width}, {count}), found {samples.values.shape}"
            )
        cleaner = self._cleaners.get(sensor)
        if cleaner is None or not count:
            return self._windower.empty()
        values, flagged = cleaner.clean(samples.time, samples.values)
        codes = self._encoder.encode(samples.labels, count)
        return self._windows(self._clock.push(sensor, samples.time, values, flagged, codes))

    def ended(self, sensor: str) -> Windows:
        """The sensor's source has ended: what waited for it need not wait any longer."""
        if sensor not in self._cleaners:
            return self._windower.empty()
        return self._windows(self._clock.ended(sensor))

    def ahead(self, sensor: str) -> float:
        """Seconds of samples that this sensor has given beyond the slowest one that is waited for."""
        return self._clock.ahead(sensor) if sensor in self._cleaners else 0.0

    def flush(self) -> Windows:
        """The windows that can still be made; the next samples begin a new run."""
        windows = self._windows(self._clock.flush())
        self._filler.flush()
        self._windower.reset()
        return windows

    def go_on_from(self, old: Stream) -> Windows:
        """Take the place of another stream of the same model, whose configuration or sensors were others.

        Where samples go the same way as before, half-full windows are kept, and so is what is known of
        sensors whose channels are cleaned as before. Else a new run begins. Either way spans with a label and
        counts are kept. Returns the windows that the old stream could still make; it is of no use afterwards.
        """
        windows = self._windower.empty()
        self.label_track, self._encoder = old.label_track, old._encoder
        if self._layout == old._layout:
            for name, cleaner in old._cleaners.items():
                if self._sources[name] == old._sources[name]:
                    self._cleaners[name] = cleaner
            self._clock, self._filler, self._windower = old._clock, old._filler, old._windower
        else:
            windows = old.flush()
        counted = self.counters()
        self._before = {name: count - counted.get(name, 0) for name, count in old.counters().items()}
        return windows

    def counters(self) -> dict[str, int]:
        """What was made, repaired and left out so far; per channel as ``"ax.missing"``."""
        counters = {
            **self._windower.counters,
            **self._clock.counters,
            "unknown_labels": self._encoder.unknown + self.label_track.unknown,
        }
        for cleaner in self._cleaners.values():
            counters |= cleaner.counters
        counters |= self._filler.counters
        return {name: counters.get(name, 0) + self._before.get(name, 0) for name in counters | self._before}

    def _windows(self, blocks: list[Ticks]) -> Windows:
        parts = [
            windows
            for ticks in blocks
            for segment in self._filler.push(ticks)
            if len(windows := self._windower.push(segment))
        ]
        if not parts:
            return self._windower.empty()
        return self.labelled(Windows.join(parts))

    def labelled(self, windows: Windows) -> Windows:
        """Windows that this stream made, with the labels of the spans that are known by now."""
        spans = self.label_track.label(windows.start, windows.end)
        labels = np.where(spans != UNLABELLED, spans, windows.labels)
        return Windows(windows.start, windows.end, windows.values, labels, windows.repaired)

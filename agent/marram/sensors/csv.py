"""A recording played as a sensor: at its own pace, faster, or as fast as it goes; once or for ever."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec
import numpy as np

from marram.config.values import ExistingFile
from marram.errors import SensorEndedError
from marram.sensors.fields import TimeUnit
from marram.sensors.recording import Recording, Rows
from marram.sensors.sensor import SensorConfig, SensorContext
from marram.stream.blocks import Samples

_REPEAT_GAP = 10.0
_PAUSE = 0.05


class CsvConfig(SensorConfig, frozen=True, kw_only=True, tag="csv"):
    """A recording (.csv or .csv.gz) with a header row.

    path: the file.
    time: column of the time stamps.
    time_unit: unit of the time stamps, or iso for ISO 8601 text.
    rate: rows a second of a recording without time stamps.
    columns: column of each channel; by default every numeric column besides time and label.
    label: column of the labels.
    delimiter: what stands between two cells.
    speed: realtime, max (as fast as it goes), or a factor.
    repeat: whether the recording begins anew when it ends, after a pause of at least 10 s of its time.
    rebase: whether time stamps are moved (by whole seconds) so that the recording begins now.
    broken: whether a broken row ends the sensor or is counted and left out.
    """

    path: ExistingFile
    time: str = "time"
    time_unit: TimeUnit = "s"
    rate: Annotated[float, msgspec.Meta(gt=0)] | None = None
    columns: dict[str, str] = msgspec.field(default_factory=dict)
    label: str | None = None
    delimiter: Literal[",", ";", "\t"] = ","
    speed: Literal["realtime", "max"] | Annotated[float, msgspec.Meta(gt=0)] = "realtime"
    repeat: bool = False
    rebase: bool = True
    broken: Literal["error", "skip"] = "error"

    def problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Cross-field mistakes."""
        if self.label is not None and self.label in self.columns.values():
            yield ("label",), f"expected a column of its own, found {self.label!r}, which is a channel too"


class CsvSensor:
    """Plays one recording. Rows whose time goes backwards are left out and counted."""

    def __init__(self, config: CsvConfig, context: SensorContext) -> None:
        self.name = config.name
        self._recording = Recording(
            config.path,
            columns=config.columns,
            time=config.time,
            time_unit=config.time_unit,
            rate=config.rate,
            label=config.label,
            delimiter=config.delimiter,
            skip_broken=config.broken == "skip",
        )
        self.channels = self._recording.channels
        self.live = config.speed != "max"
        self.counters = self._recording.counters
        self.counters |= {"backwards": 0, "repeats": 0}
        self._path = config.path
        self._factor = {"realtime": 1.0, "max": math.inf}.get(str(config.speed)) or float(config.speed)
        self._repeat = config.repeat
        self._rebase = config.rebase
        self._context = context
        self._gap = max(_REPEAT_GAP, 2 * context.max_gap)

    def read(self, stop: threading.Event) -> Iterator[Samples]:
        began = self._context.monotonic()
        first = newest = -math.inf
        shift = begin = 0.0
        while not stop.is_set():
            newest = -math.inf
            for rows in self._recording.blocks():
                kept = self._forward(rows, newest)
                if not kept.time.size:
                    continue
                if first == -math.inf:
                    first = float(kept.time[0])
                    # Whole seconds: the fractions, and with them the sample grid, stay what they are.
                    shift = float(math.floor(self._context.start - first)) if self._rebase else 0.0
                    begin = first + shift
                newest = float(kept.time[-1])
                samples = Samples(kept.time + shift, kept.values, kept.labels)
                yield from self._paced(samples, began - begin / self._factor, stop)
                if stop.is_set():
                    return
            if newest == -math.inf:
                raise SensorEndedError(f"sensor {self.name}: {self._path} holds no rows")
            if not self._repeat:
                return
            self.counters["repeats"] += 1
            shift += math.ceil(newest - first + self._gap)

    def _forward(self, rows: Rows, newest: float) -> Rows:
        time = rows.time
        if time[0] >= newest and (time[1:] >= time[:-1]).all():
            return rows
        high = np.maximum.accumulate(np.concatenate(([newest], time)))[:-1]
        keep = time >= high
        self.counters["backwards"] += int(np.count_nonzero(~keep))
        labels = None if rows.labels is None else rows.labels[keep]
        return Rows(time[keep], np.ascontiguousarray(rows.values[:, keep]), labels)

    def _paced(self, samples: Samples, zero: float, stop: threading.Event) -> Iterator[Samples]:
        """Parts of the samples as they are due: a sample of time t at monotonic ``zero + t / factor``."""
        if math.isinf(self._factor):
            yield samples
            return
        due = zero + samples.time / self._factor
        at, count = 0, len(samples)
        while at < count:
            now = self._context.monotonic()
            end = int(np.searchsorted(due, now, side="right"))
            if end > at:
                labels = None if samples.labels is None else samples.labels[at:end]
                yield Samples(samples.time[at:end], samples.values[:, at:end], labels)
                at = end
            elif stop.wait(max(_PAUSE, float(due[at]) - now)):
                return


def open(config: CsvConfig, context: SensorContext) -> CsvSensor:
    """Open a recording. Raises SensorError."""
    return CsvSensor(config, context)

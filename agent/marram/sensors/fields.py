"""From decoded messages (JSON, CBOR) to samples: which field is which channel, and when it was.

Shared by the sensors that take messages. What may come in: any decoded value; whatever does not fit is
counted as malformed, and the first reason is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from marram.sensors.sensor import SensorConfig
from marram.stream.blocks import Samples

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
_LONGEST_LABEL = 200
PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


class FieldsConfig(SensorConfig, frozen=True, kw_only=True):
    """How a message becomes samples.

    channels: the field of each channel as a dotted path ("imu.accel.0"; "." is the message itself), or a
    list of names where field and channel are called the same.
    time: dotted path of the time stamp; without it the time of arrival counts.
    time_unit: unit of the time stamp since the Unix epoch, or iso for ISO 8601 text (UTC without an offset).
    readings: dotted path of a list of readings in one message; a message that is a list needs none.
    label: dotted path of a label.
    """

    channels: dict[str, str] | tuple[str, ...]
    time: str | None = None
    time_unit: TimeUnit = "s"
    readings: str | None = None
    label: str | None = None

    @property
    def mapping(self) -> dict[str, str]:
        """Channel name to dotted path, in channel order."""
        return (
            self.channels
            if isinstance(self.channels, dict)
            else {channel: channel for channel in self.channels}
        )

    def problems(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Cross-field mistakes."""
        if not self.channels:
            yield ("channels",), "expected at least one channel, found none"
        if not isinstance(self.channels, dict) and len(set(self.channels)) < len(self.channels):
            yield ("channels",), "expected different channels, found one twice"


class MalformedError(ValueError):
    """A message does not fit the mapping; the text says where."""


def parse_time(value: object, unit: TimeUnit) -> float:
    """Seconds since the Unix epoch. Raises MalformedError."""
    if unit == "iso":
        if not isinstance(value, str):
            raise MalformedError(f"expected ISO 8601 text as time, found {value!r:.60}")
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise MalformedError(f"expected ISO 8601 text as time, found {value!r:.60}") from error
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = _float(value) / PER_SECOND[unit]
    if not math.isfinite(seconds):
        raise MalformedError(f"expected a number as time, found {value!r:.60}")
    return seconds


class FieldMapper:
    """Applies one mapping to messages; keeps the counters and the newest time."""

    def __init__(self, config: FieldsConfig) -> None:
        self.counters = {"messages": 0, "malformed": 0, "backwards": 0}
        self.first_malformed = ""
        self.channels = tuple(config.mapping)
        self._paths = [_split(path) for path in config.mapping.values()]
        self._time = _split(config.time) if config.time is not None else None
        self._unit: TimeUnit = config.time_unit
        self._readings = _split(config.readings) if config.readings is not None else None
        self._label = _split(config.label) if config.label is not None else None
        self._newest = -math.inf

    def malformed(self, reason: str) -> None:
        """Count a message that could not even be decoded."""
        self.counters["malformed"] += 1
        self.first_malformed = self.first_malformed or reason

    def samples(self, messages: Iterable[tuple[float, Any]]) -> Samples | None:
        """Samples out of (time of arrival, decoded message) pairs; None when there is not one.

        time is float64 (n,), values float32 (channels, n). A field that is absent or null is missing (NaN).
        """
        times: list[float] = []
        rows: list[list[float]] = []
        labels: list[str] = []
        for arrival, message in messages:
            self.counters["messages"] += 1
            try:
                readings = self._each(message)
            except MalformedError as error:
                self.malformed(str(error))
                continue
            for reading in readings:
                try:
                    time, row, label = self._reading(reading, arrival)
                except MalformedError as error:
                    self.malformed(str(error))
                    continue
                if time < self._newest:
                    self.counters["backwards"] += 1
                    continue
                self._newest = time
                times.append(time)
                rows.append(row)
                labels.append(label)
        if not times:
            return None
        values = np.ascontiguousarray(np.array(rows, dtype=np.float32).T)
        return Samples(
            np.array(times, dtype=np.float64),
            values,
            np.array(labels, dtype=np.str_) if self._label else None,
        )

    def _each(self, message: object) -> list[object]:
        readings = _get(message, self._readings) if self._readings is not None else message
        if self._readings is not None and not isinstance(readings, list | tuple):
            raise MalformedError(f"expected a list at {'.'.join(self._readings)}, found {readings!r:.60}")
        return list(readings) if isinstance(readings, list | tuple) else [readings]

    def _reading(self, reading: object, arrival: float) -> tuple[float, list[float], str]:
        row = [_number(_get(reading, path), path) for path in self._paths]
        if all(math.isnan(value) for value in row):
            raise MalformedError(f"none of the channels is in {reading!r:.60}")
        time = arrival if self._time is None else parse_time(_get(reading, self._time), self._unit)
        label = _get(reading, self._label) if self._label is not None else None
        if label is None:
            return time, row, ""
        if not isinstance(label, str | int | float) or len(str(label)) > _LONGEST_LABEL:
            # One long label would make every label of its block as long (numpy's strings are that wide).
            raise MalformedError(
                f"expected a label of at most {_LONGEST_LABEL} characters, found {label!r:.60}"
            )
        return time, row, str(label)


def _split(path: str) -> tuple[str, ...]:
    return () if path == "." else tuple(path.split("."))


def _get(value: object, path: tuple[str, ...]) -> object:
    for key in path:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list | tuple) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON and CBOR know whole numbers of any size
        return math.inf


def _number(value: object, path: tuple[str, ...]) -> float:
    if value is None:
        return math.nan
    if isinstance(value, int | float):
        return _float(value)
    raise MalformedError(f"expected a number at {'.'.join(path) or '.'}, found {value!r:.60}")

"""JSON lines on standard input: any program that prints readings is a sensor.

The pipeline holds this sensor back rather than dropping, and the pipe holds its writer back in turn.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator

from marram.errors import SensorError
from marram.sensors.fields import FieldMapper, FieldsConfig
from marram.sensors.lines import Lines, TooLongError
from marram.sensors.sensor import SensorContext
from marram.stream.blocks import Samples

_BLOCK = 1 << 16
_POLL = 0.2


class StdinConfig(FieldsConfig, frozen=True, kw_only=True, tag="stdin"):
    """JSON lines on standard input."""


class StdinSensor:
    """Reads one file descriptor; blocks at most 0.2 s beyond ``stop``."""

    live = False

    def __init__(self, config: StdinConfig, context: SensorContext, descriptor: int) -> None:
        self.name = config.name
        self._mapper = FieldMapper(config, context.max_gap)
        self.channels = self._mapper.channels
        self.counters = self._mapper.counters
        self._clock = context.clock
        self._descriptor = descriptor

    @property
    def first_malformed(self) -> str:
        """Why the first malformed line was refused, or ""."""
        return self._mapper.first_malformed

    def read(self, stop: threading.Event) -> Iterator[Samples]:
        lines = Lines("json", self._mapper.malformed)
        while not stop.is_set():
            try:
                ready, _, _ = select.select([self._descriptor], [], [], _POLL)
                block = os.read(self._descriptor, _BLOCK) if ready else None
            except OSError as error:
                raise SensorError(f"sensor {self.name}: standard input cannot be read: {error}") from error
            if block is None:
                continue
            arrival = self._clock()
            try:
                samples = self._mapper.samples(
                    (arrival, message) for message in (lines.messages(block) if block else lines.end())
                )
            except TooLongError as error:
                raise SensorError(
                    f"sensor {self.name}: standard input: {error}: write one JSON reading a line"
                ) from error
            if samples is not None:
                yield samples
            if not block:
                return


def open(config: StdinConfig, context: SensorContext) -> StdinSensor:
    """Open standard input. Raises SensorError where the process has none."""
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError) as error:
        raise SensorError(f"sensor {config.name}: this process has no standard input") from error
    return StdinSensor(config, context, descriptor)

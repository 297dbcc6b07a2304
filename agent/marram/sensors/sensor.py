"""The seam to the sources of samples: a sensor is opened from its configuration and read by one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import msgspec

from marram.config.machine import Board, BoardNames
from marram.registry import Name, Registry
from marram.stream.blocks import Samples


class SensorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """What every sensor has.

    name: what the sensor is called in ``stream.channels`` ("watch" in "watch.ax") and in status.

    A plugin lists in ``on_board`` those of its keys that may hold a name of the board's instead of a path,
    ``{"port": "serial"}``, and opens ``context.board.path("serial", config.port)``.
    """

    on_board: ClassVar[dict[str, BoardNames]] = {}

    name: Name


@dataclass(frozen=True, slots=True)
class SensorContext:
    """What a sensor may know of the daemon; make it anew whenever sensors are opened.

    device: the device's name. board: the names of its ports. max_gap: seconds, the stream's. start: seconds
    since the Unix epoch at which replays begin, common to all sensors. clock, monotonic: seconds; tests put
    their own in.
    """

    device: str = "device"
    board: Board = field(default_factory=Board)
    max_gap: float = 2.0
    start: float = field(default_factory=time.time)
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class Sensor(Protocol):
    """One source of samples.

    live: whether samples come when they come; a source that is not live is a replay, which the pipeline
    may hold back instead of dropping. counters: what was skipped, by kind, for status.
    """

    @property
    def name(self) -> str: ...

    @property
    def channels(self) -> tuple[str, ...]: ...

    @property
    def live(self) -> bool: ...

    @property
    def counters(self) -> dict[str, int]: ...

    def read(self, stop: threading.Event) -> Iterator[Samples]:
        """Blocks of samples until the source ends or ``stop`` is set.

        Time never decreases over all blocks, unless the clock itself was set back. Raises SensorError.
        """
        ...


SENSORS: Registry[SensorConfig, Sensor] = Registry("marram.sensors", "marram.sensors", SensorConfig)

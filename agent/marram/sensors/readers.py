"""A thread for each sensor, that can be stopped and started while the others go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from marram.sensors.reading import read_to_the_end
from marram.sensors.sensor import Sensor
from marram.stream.blocks import Samples

_PATIENCE = 5.0

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where samples go."""

    def feed(self, sensor: str, samples: Samples, live: bool, stop: threading.Event) -> None: ...

    def ended(self, sensor: str) -> None: ...


class _Reader(threading.Thread):
    """Reads one sensor.

    replaced: another goes on where it was, so that the sink hears of no end. given_up: it did not end when it
    was told to, and nothing is taken from it any more.
    """

    def __init__(self, sensor: Sensor, read: Callable[[_Reader], None]) -> None:
        super().__init__(name=f"sensor-{sensor.name}", daemon=True)
        self.sensor, self._read = sensor, read
        self.stop = threading.Event()
        self.replaced = self.given_up = False

    def run(self) -> None:
        self._read(self)


class Readers:
    """errors: by sensor, what is wrong with it now. over: called when all have ended, not all by ``stop``."""

    def __init__(self, sink: Sink, errors: dict[str, str], over: Callable[[], None]) -> None:
        self._sink, self._errors, self._over = sink, errors, over
        self._lock = threading.Lock()
        self._reading: dict[str, _Reader] = {}

    def start(self, sensors: Mapping[str, Sensor]) -> None:
        """Read these too."""
        readers = [_Reader(sensor, self._read) for sensor in sensors.values()]
        with self._lock:
            self._reading |= {reader.sensor.name: reader for reader in readers}
        for reader in readers:
            reader.start()
        if not self._reading:
            self._over()

    def replace(self, names: Collection[str]) -> None:
        """Stop these; what takes their place in the stream comes with ``start``."""
        self._stop(names, replaced=True)
        for name in names:
            self._errors.pop(name, None)

    def stop(self) -> None:
        """Stop all for good."""
        self._stop(list(self._reading), replaced=False)

    def _stop(self, names: Collection[str], replaced: bool) -> None:
        with self._lock:
            stopped = [self._reading.pop(name) for name in names if name in self._reading]
        for reader in stopped:
            reader.replaced = replaced
            reader.stop.set()
        for reader in stopped:
            reader.join(_PATIENCE)
            if reader.is_alive():
                reader.given_up = True
                log.warning("sensor %s does not end; what it still gives is lost", reader.sensor.name)

    def _read(self, reader: _Reader) -> None:
        sensor = reader.sensor

        def feed(samples: Samples) -> None:
            if not reader.given_up:
                self._sink.feed(sensor.name, samples, sensor.live, reader.stop)

        read_to_the_end(sensor, feed, self._errors, reader.stop)
        if not reader.replaced:
            self._sink.ended(sensor.name)
        with self._lock:
            by_itself = self._reading.get(sensor.name) is reader
            if by_itself:
                del self._reading[sensor.name]
            last = by_itself and not self._reading
        if last:
            self._over()

"""Reading a sensor in a test: to its end, up to some samples, or in a thread as the daemon does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

import numpy as np
from marram.sensors.sensor import Sensor
from marram.stream.blocks import Samples

PATIENCE = 20.0


def join(blocks: list[Samples]) -> Samples:
    """Blocks of one sensor as one block."""
    labels = None if blocks[0].labels is None else np.concatenate([block.labels for block in blocks])
    return Samples(
        np.concatenate([block.time for block in blocks]),
        np.concatenate([block.values for block in blocks], axis=1),
        labels,
    )


def read_all(sensor: Sensor, most: int | None = None) -> Samples:
    """All samples of a sensor that ends, or its first ones: the blocks up to ``most`` samples."""
    stop, blocks, count = threading.Event(), [], 0
    for block in sensor.read(stop):
        blocks.append(block)
        count += len(block)
        if most is not None and count >= most:
            stop.set()
    return join(blocks)


class Reading:
    """A sensor read by a thread of its own until the test is done with it."""

    def __init__(self, sensor: Sensor) -> None:
        self.sensor = sensor
        self.blocks: list[Samples] = []
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Reading:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the sensor does not stop"
        if kind is None and self.error is not None:
            raise self.error

    def wait_for(self, count: int) -> Samples:
        """At least so many samples."""
        self.wait_until(lambda: sum(map(len, self.blocks)) >= count)
        return join(self.blocks)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until something is so; looked at whenever samples come, and every 50 ms."""
        with self._changed:
            for _ in range(int(PATIENCE / 0.05)):
                if condition():
                    return
                self._changed.wait(0.05)
        raise AssertionError(f"in vain: {self.sensor.counters} {self.error}")

    def _run(self) -> None:
        try:
            for block in self.sensor.read(self._stop):
                with self._changed:
                    self.blocks.append(block)
                    self._changed.notify_all()
        except BaseException as error:
            self.error = error

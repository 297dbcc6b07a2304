"""One sensor read to its end: what goes wrong is logged and shown, and the sensor is tried again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from marram.errors import SensorEndedError, SensorError
from marram.sensors.sensor import Sensor
from marram.stream.blocks import Samples

_RETRY_FIRST, _RETRY_LAST = 1.0, 60.0

log = logging.getLogger(__name__)


def read_to_the_end(
    sensor: Sensor, feed: Callable[[Samples], None], errors: dict[str, str], stop: threading.Event
) -> None:
    """Returns when the sensor has no more samples, has ended for good, or ``stop`` is set.

    errors: by the sensor's name, what is wrong with it now; nothing while it gives samples.
    """
    delay = _RETRY_FIRST
    while not stop.is_set():
        try:
            for samples in sensor.read(stop):
                feed(samples)
                delay = _RETRY_FIRST
                errors.pop(sensor.name, None)
            break
        except SensorEndedError as error:
            log.error("sensor %s has ended: %s", sensor.name, error, extra={"sensor": sensor.name})
            errors[sensor.name] = str(error)
            break
        except Exception as error:
            # SensorError or not: the other sensors go on, and this one is tried again.
            known = isinstance(error, SensorError)
            text = "sensor %s: %s; trying again in %.0f s"
            log.error(text, sensor.name, error, delay, exc_info=not known, extra={"sensor": sensor.name})
            errors[sensor.name] = str(error) if known else f"{type(error).__name__}: {error}"
        stop.wait(delay)
        delay = min(delay * 2, _RETRY_LAST)
    if said := getattr(sensor, "first_malformed", ""):
        count = sensor.counters.get("malformed", 0)
        text = "sensor %s: %d messages were malformed, the first: %s"
        log.warning(text, sensor.name, count, said, extra={"sensor": sensor.name})

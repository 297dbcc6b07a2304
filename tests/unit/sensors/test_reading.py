"""Reading a sensor to its end: errors are shown while they last, and no error ends it but the last."""

import threading

import numpy as np
import pytest
from marram.errors import SensorEndedError, SensorError
from marram.sensors import reading
from marram.sensors.reading import read_to_the_end
from marram.stream.blocks import Samples

SAMPLES = Samples(np.zeros(1), np.zeros((1, 1), np.float32))


class Script:
    """A sensor whose each reading goes as one line of the script says; an empty last line is its end."""

    name, channels, live, counters = "s", ("x",), True, {"malformed": 2}

    def __init__(self, *lines):
        self.lines = list(lines)

    def read(self, stop):
        for step in self.lines.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(reading, "_RETRY_FIRST", 0.001)


def read(*lines):
    """What was shown as its error at each sample, and at the end."""
    errors, shown = {}, []
    read_to_the_end(Script(*lines), lambda _: shown.append(dict(errors)), errors, threading.Event())
    return [*shown, errors]


def test_a_sensor_without_errors_is_read_once():
    assert read([SAMPLES, SAMPLES]) == [{}, {}, {}]


@pytest.mark.parametrize(
    ("error", "words"),
    [(SensorError("no bus"), "no bus"), (KeyError("x"), "KeyError: 'x'")],
    ids=["own", "bug"],
)
def test_an_error_is_shown_until_the_next_sample_and_the_sensor_is_read_again(error, words):
    assert read([SAMPLES, error], [SAMPLES, SAMPLES]) == [{}, {"s": words}, {}, {}]


def test_an_end_for_good_is_not_tried_again_and_its_reason_stays():
    assert read([SAMPLES, SensorEndedError("unplugged")]) == [{}, {"s": "unplugged"}]


def test_a_sensor_that_only_fails_is_left_when_the_end_is_asked_for():
    stop, failures = threading.Event(), []

    class Broken(Script):
        def read(self, stop_):
            failures.append(1)
            if len(failures) == 3:
                stop.set()
            raise SensorError("no bus")

    errors = {}
    read_to_the_end(Broken(), lambda _: None, errors, stop)
    assert len(failures) == 3
    assert errors == {"s": "no bus"}


def test_malformed_messages_are_summed_up_at_the_end(caplog):
    sensor = Script([])
    sensor.first_malformed = "not a number"
    read_to_the_end(sensor, lambda _: None, {}, threading.Event())
    assert "2 messages were malformed, the first: not a number" in caplog.text

"""Lines on a pseudo-terminal, which is a serial port without a wire."""

import contextlib
import os
import pty
import termios
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.config.machine import Board
from marram.errors import SensorError
from marram.sensors.sensor import SENSORS, SensorContext
from marram.sensors.serial import SerialConfig

from tests.support.reading import Reading


class Wire:
    """The other end of a serial port."""

    def __init__(self) -> None:
        self._end, device = pty.openpty()
        self.path = os.ttyname(device)
        os.close(device)

    def send(self, data: bytes) -> None:
        os.write(self._end, data)

    def settings(self):
        return termios.tcgetattr(self._end)

    def pull_out(self) -> None:
        os.close(self._end)


@pytest.fixture
def wire():
    made = Wire()
    yield made
    with contextlib.suppress(OSError):
        made.pull_out()


def on(wire, board=None, **keys):
    config = SerialConfig(name="s", **{"port": wire.path, "channels": ("a",), **keys})
    return SENSORS.open(config, SensorContext(board=board or Board()))


def begun(reading, wire, line=b'{"a": 0}\n'):
    """Once a line has come the port is open and in the middle of nothing."""
    while not reading.blocks and reading.error is None:
        wire.send(b"\n" + line)
        time.sleep(0.1)  # what was sent before it was open is lost, and nothing more is to come
    return reading.wait_for(1)


def test_json_lines_are_samples(wire):
    with Reading(on(wire)) as reading:
        begun(reading, wire)
        count = sum(len(block) for block in reading.blocks)
        wire.send(b'{"a": 7}\r\n{"a"')
        wire.send(b": 8}\n")
        assert reading.wait_for(count + 2).values[0].tolist()[-2:] == [7, 8]


@pytest.mark.parametrize("line", [b"1.5,2,-3e2\n", b" 1.5 2\t-3e2 \r\n", b"1.5;2;-3e2\n", b"1.5, 2, -3e2,\n"])
def test_numbers_are_fields_by_their_place(wire, line):
    sensor = on(wire, format="numbers", channels={"x": "2", "y": "0"})
    with Reading(sensor) as reading:
        assert begun(reading, wire, line).values[:, 0].tolist() == [-300, 1.5]


def test_the_port_is_set_as_it_was_asked_for(wire):
    with Reading(on(wire, baud=9600, parity="even", stop_bits=2)) as reading:
        begun(reading, wire)
        iflag, oflag, cflag, lflag, speed, _, _ = wire.settings()
        assert speed == termios.B9600
        # (a pseudo-terminal has no parity and always 8 bits)
        assert cflag & termios.CSTOPB
        assert not lflag & (termios.ICANON | termios.ECHO)
        assert not oflag & termios.OPOST
        assert not iflag & (termios.ICRNL | termios.IXON)


def test_a_port_by_the_boards_name(wire):
    sensor = on(wire, Board(serial={"header": wire.path}), port="header")
    with Reading(sensor) as reading:
        assert begun(reading, wire).values.tolist()[0][0] == 0


def test_half_a_line_at_the_begin_is_left_out(wire):
    sensor = on(wire, format="numbers", channels={"x": "0"})
    with Reading(sensor) as reading:
        begun(reading, wire, b"12\n")
        assert set(reading.blocks[0].values[0].tolist()) == {12}
    assert sensor.counters["malformed"] == 0


def test_noise_is_counted_and_what_comes_after_it_is_read(wire):
    sensor = on(wire)
    with Reading(sensor) as reading:
        begun(reading, wire)
        count = sum(len(block) for block in reading.blocks)
        wire.send(b"\xff\x00\xfe" * 100 + b"\n" + b"x" * 3000 + b'\n{"a": 9}\n')
        assert reading.wait_for(count + 1).values[0].tolist()[-1] == 9
    assert sensor.counters["malformed"] == 2
    assert "not a JSON line" in sensor.first_malformed


def test_a_line_without_end_says_what_may_be_wrong(wire):
    sensor = on(wire, baud=300 * 4)
    with Reading(sensor) as reading:
        begun(reading, wire)
        count = sum(len(block) for block in reading.blocks)
        for _ in range(40):
            wire.send(b"\x81" * 1000)
        wire.send(b'\n{"a": 9}\n')
        assert reading.wait_for(count + 1).values[0].tolist()[-1] == 9
    assert "1200" in sensor.first_malformed


def test_a_port_that_is_pulled_out_is_an_error_that_says_so(wire):
    with Reading(on(wire)) as reading:
        begun(reading, wire)
        wire.pull_out()
        reading.wait_until(lambda: reading.error is not None)
        error, reading.error = reading.error, None
    assert isinstance(error, SensorError)
    assert wire.path in str(error)


@pytest.mark.parametrize(
    ("port", "why"), [("/dev/nothing", "plugged in"), ("/dev/null", "serial port"), ("/dev", "serial port")]
)
def test_what_is_no_port_is_an_error_that_says_what_to_do(wire, port, why):
    with pytest.raises(SensorError, match=why), Reading(on(wire, port=port)) as reading:
        reading.wait_until(lambda: reading.error is not None)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4), min_size=1, max_size=10),
    st.data(),
)
def test_however_the_bytes_are_cut_the_numbers_are_the_same(rows, data):
    from marram.sensors.lines import Lines

    text = "".join(",".join(map(repr, row)) + "\n" for row in rows).encode()
    lines = Lines("numbers", pytest.fail)
    found, rest = [], text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += lines.messages(rest[:size])
        rest = rest[size:]
    assert [list(one.values()) for one in found] == rows

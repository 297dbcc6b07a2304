"""JSON lines through a real pipe."""

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.errors import SensorError
from marram.sensors.sensor import SensorContext
from marram.sensors.stdin import StdinConfig, StdinSensor

from tests.support.reading import Reading, read_all


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def sensor_on(descriptor, **keys):
    return StdinSensor(StdinConfig(name="pipe", **{"channels": ("a",), **keys}), SensorContext(), descriptor)


def feed(pipe, data):
    os.write(pipe[1], data)
    os.close(pipe[1])


def test_lines_are_samples_until_the_writer_is_done(pipe):
    sensor = sensor_on(pipe[0], time="t")
    feed(pipe, b'{"a": 1, "t": 10}\n\n  \n[{"a": 2, "t": 11}, {"a": 3, "t": 12}]\n{"a": 4, "t": 13}')
    samples = read_all(sensor)
    assert samples.time.tolist() == [10, 11, 12, 13]
    assert samples.values.tolist() == [[1, 2, 3, 4]]


def test_samples_come_as_soon_as_their_line_is_there(pipe):
    with Reading(sensor_on(pipe[0])) as reading:
        os.write(pipe[1], b'{"a": 1}\n{"a"')
        assert reading.wait_for(1).values.tolist() == [[1]]
        os.write(pipe[1], b": 2}\n")
        assert reading.wait_for(2).values.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"hello",
        b"\xff\xfe",
        b"[" * 100_000,
        b"NaN",
        b'{"a": 1e999}',
        b'{"a": "x"}',
        b"1" + b"0" * 10_000,
        b"\x00",
    ],
    ids=lambda line: repr(line[:10]),
)
def test_garbage_is_counted_and_the_next_line_is_read(pipe, line):
    with Reading(sensor_on(pipe[0])) as reading:
        os.set_blocking(pipe[1], True)
        data = line + b'\n{"a": 5}\n'
        for start in range(0, len(data), 4096):
            os.write(pipe[1], data[start : start + 4096])
        assert reading.wait_for(1).values.tolist() == [[5]]
        assert reading.sensor.counters["malformed"] == 1
        assert reading.sensor.first_malformed


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path):
    long = tmp_path / "long"
    long.write_bytes(b"x" * (3 << 20))
    with (
        long.open("rb") as file,
        pytest.raises(SensorError, match="longer than 1048576 bytes: write one JSON reading"),
    ):
        read_all(sensor_on(file.fileno()))


def test_a_descriptor_that_is_gone_is_an_error_with_a_name():
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(SensorError, match="sensor pipe: standard input cannot be read"):
        read_all(sensor_on(read))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.data())
def test_however_the_writer_cuts_its_lines_the_samples_are_the_same(numbers, data):
    text = "".join(f'{{"a": {number}}}\n' for number in numbers).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    read, write = os.pipe()
    with Reading(sensor_on(read)) as reading:
        for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
            if stop > start:
                os.write(write, text[start:stop])
        os.close(write)
        assert reading.wait_for(len(numbers)).values[0].tolist() == numbers
    os.close(read)


def test_a_process_without_standard_input_is_told_so():
    code = (
        "import sys; sys.stdin = None\n"
        "from marram.sensors import stdin; from marram.sensors.sensor import SensorContext\n"
        "stdin.open(stdin.StdinConfig(name='pipe', channels=('a',)), SensorContext())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "SensorError: sensor pipe: this process has no standard input" in done.stderr

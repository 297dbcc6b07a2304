"""Recordings: what is read of which file, at which pace, and what a broken one says."""

import gzip
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.errors import SensorEndedError, SensorError
from marram.sensors import csv
from marram.sensors.csv import CsvConfig
from marram.sensors.sensor import SensorContext

from tests.support.configs import RECORDING
from tests.support.reading import read_all


def write(folder, content, name="a.csv"):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") and isinstance(content, str) else data)
    return path


def open_csv(path, context=None, **keys):
    keys = {"speed": "max", "rebase": False, **keys}
    return csv.open(CsvConfig(name="tape", path=path, **keys), context or SensorContext(start=1000.0))


def counters(sensor):
    return {kind: count for kind, count in sensor.counters.items() if count}


PLAIN = "time,a,b\n0,1,2\n1,3,\n2,5,6\n"


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_plain_recording_is_read_whatever_its_packing(tmp_path, name, ends, mark, delimiter):
    text = mark + PLAIN.replace("\n", ends).replace(",", delimiter)
    sensor = open_csv(write(tmp_path, text, name), delimiter=delimiter)
    samples = read_all(sensor)
    assert sensor.channels == ("a", "b")
    assert samples.time.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(samples.values, np.float32([[1, 3, 5], [2, np.nan, 6]]))
    assert samples.labels is None
    assert counters(sensor) == {"rows": 3}


def test_the_shipped_recordings_are_read_with_labels():
    samples = read_all(open_csv(RECORDING, label="exercise"))
    assert samples.values.shape == (6, len(samples))
    assert len(samples) > 10_000
    assert set(samples.labels) <= {"PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW", ""}
    assert np.isfinite(samples.values).all()


def test_columns_name_the_channels_and_their_order(tmp_path):
    sensor = open_csv(write(tmp_path, PLAIN), columns={"second": "b", "first": "a"})
    assert sensor.channels == ("second", "first")
    assert read_all(sensor).values[1].tolist() == [1, 3, 5]


def test_text_columns_are_no_channels_unless_asked_for(tmp_path):
    path = write(tmp_path, "time,a,who,empty\n0,1,me,\n1,2,you,\n")
    assert open_csv(path).channels == ("a",)
    with pytest.raises(SensorEndedError, match=r"a\.csv:2: broken row: .*'me'"):
        read_all(open_csv(path, columns={"who": "who"}))


@pytest.mark.parametrize(
    ("unit", "cells", "times"),
    [
        ("s", ["0.5", "1.5"], [0.5, 1.5]),
        ("ms", ["500", "1500"], [0.5, 1.5]),
        ("us", ["500000", "1500000"], [0.5, 1.5]),
        ("ns", ["500000000", "1500000000"], [0.5, 1.5]),
        ("iso", ["1970-01-01T00:00:00.5", "1970-01-01T01:00:01.5+01:00"], [0.5, 1.5]),
        ("iso", ["1970-01-01 00:00:01", "1970-01-01T00:00:02Z"], [1.0, 2.0]),
    ],
)
def test_times_in_any_unit_become_seconds(tmp_path, unit, cells, times):
    text = "when,a\n" + "".join(f"{cell},1\n" for cell in cells)
    assert read_all(open_csv(write(tmp_path, text), time="when", time_unit=unit)).time.tolist() == times


def test_a_recording_without_times_has_a_rate(tmp_path):
    samples = read_all(open_csv(write(tmp_path, "a\n1\n2\n3\n"), rate=4))
    assert samples.time.tolist() == [0, 0.25, 0.5]


def test_rebase_moves_the_recording_to_now_by_whole_seconds(tmp_path):
    path = write(tmp_path, "time,a\n5.25,1\n6.25,2\n")
    samples = read_all(open_csv(path, SensorContext(start=1000.9), rebase=True))
    assert samples.time.tolist() == [1000.25, 1001.25]


def test_repeat_begins_anew_after_a_pause_longer_than_the_streams_gap(tmp_path):
    sensor = open_csv(write(tmp_path, "time,a\n0,1\n1,2\n"), SensorContext(start=0, max_gap=20), repeat=True)
    samples = read_all(sensor, most=6)
    assert (np.diff(samples.time) >= 0).all()
    assert np.diff(samples.time)[1::2].min() > 20
    assert samples.values[0].tolist() == [1, 2] * 3
    assert sensor.counters["repeats"] >= 2


class Wall:
    """A clock that only moves when somebody waits."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds
        return False

    @staticmethod
    def is_set():
        return False


@pytest.mark.parametrize(("speed", "factor"), [("realtime", 1), (2.0, 2), (0.5, 0.5)])
def test_samples_come_when_they_are_due(tmp_path, speed, factor):
    times = [0, 0.5, 0.7, 3, 3.01, 10]
    path = write(tmp_path, "time,a\n" + "".join(f"{t},1\n" for t in times))
    wall = Wall()
    sensor = open_csv(path, SensorContext(monotonic=wall), speed=speed)
    came = [(t, wall.now) for block in sensor.read(wall) for t in block.time.tolist()]
    assert [t for t, _ in came] == times
    for t, now in came:
        assert 100 + t / factor <= now <= 100 + t / factor + 0.051


def test_as_fast_as_it_goes_waits_for_nothing(tmp_path):
    wall = Wall()
    sensor = open_csv(write(tmp_path, "time,a\n0,1\n1e6,1\n"), SensorContext(monotonic=wall))
    assert len(list(sensor.read(wall))) == 1
    assert wall.now == 100
    assert not sensor.live
    assert open_csv(sensor._path, speed="realtime").live


def test_rows_that_go_backwards_are_left_out_and_counted(tmp_path):
    sensor = open_csv(write(tmp_path, "time,a\n0,1\n2,2\n1,3\n2,4\n3,5\n"))
    samples = read_all(sensor)
    assert samples.values[0].tolist() == [1, 2, 4, 5]
    assert counters(sensor) == {"rows": 5, "backwards": 1}


BROKEN = [
    ("a cell too few", "2,3", "expected 3 cells, found 2"),
    ("a cell too many", "2,3,4,5", "expected 3 cells, found 4"),
    ("a word", "2,many,4", "'many'"),
    ("no time", ",3,4", "could not convert string to float"),
    ("a time that is no time", "nan,3,4", "expected a number as time"),
    ("an open quote", '2,"3,4', "unexpected end of data"),
]


@pytest.mark.parametrize(("row", "words"), [pytest.param(*rest, id=name) for name, *rest in BROKEN])
def test_a_broken_row_ends_the_sensor_with_its_line_or_is_counted(tmp_path, row, words):
    path = write(tmp_path, f"time,a,b\n0,1,2\n1,2,3\n{row}\n9,9,9\n")
    with pytest.raises(SensorEndedError, match=r"a\.csv:4: broken row: ") as caught:
        read_all(open_csv(path, columns={"a": "a", "b": "b"}))
    assert words in str(caught.value)
    assert "`broken: skip` leaves such rows out" in str(caught.value)
    sensor = open_csv(path, columns={"a": "a", "b": "b"}, broken="skip")
    assert read_all(sensor).values.tolist() == [[1, 2, 9], [2, 3, 9]]
    assert counters(sensor) == {"rows": 3, "malformed": 1}


def test_two_rows_that_are_wrong_in_opposite_ways_are_both_broken(tmp_path):
    path = write(tmp_path, "time,a,b,what\n0,1,2,x\n1,1\n2,1,2,x,9,9\n3,1,2,y\n")
    sensor = open_csv(path, broken="skip", columns={"a": "a"}, label="what")
    samples = read_all(sensor)
    assert samples.time.tolist() == [0, 3]
    assert samples.labels.tolist() == ["x", "y"]
    assert counters(sensor) == {"rows": 2, "malformed": 2}


def test_quoted_cells_and_empty_lines_are_read(tmp_path):
    path = write(tmp_path, 'time,a,what\n0,"1","one, two"\n\n1,2,three\n')
    samples = read_all(open_csv(path, label="what"))
    assert samples.values.tolist() == [[1, 2]]
    assert samples.labels.tolist() == ["one, two", "three"]


@pytest.mark.parametrize(
    ("content", "keys", "words"),
    [
        ("", {}, "the file is empty: expected a header row"),
        ("a,b\n1,2\n", {}, "no column 'time' for time: the file has a, b"),
        ("time,a\n1,2\n", {"columns": {"x": "c"}}, "no column 'c' for x: the file has time, a"),
        ("time,a\n1,2\n", {"label": "what"}, "no column 'what' for label"),
        ("time,a\n1,word\n", {}, "no numeric column: name the columns in `columns`"),
        (b"time,a\n\xff\xfe\n", {}, "cannot be read: 'utf-8' codec"),
    ],
)
def test_a_recording_that_cannot_be_opened_says_why(tmp_path, content, keys, words):
    with pytest.raises(SensorError) as caught:
        open_csv(write(tmp_path, content), **keys)
    assert "a.csv" in str(caught.value)
    assert words in str(caught.value)


def test_a_recording_without_rows_ends_the_sensor_with_a_word(tmp_path):
    sensor = open_csv(write(tmp_path, "time,a\n"), columns={"a": "a"}, repeat=True)
    with pytest.raises(SensorEndedError, match=r"sensor tape: .*a\.csv holds no rows"):
        read_all(sensor)


def test_a_repeated_recording_that_was_emptied_meanwhile_ends_the_sensor_with_a_word(tmp_path):
    path = write(tmp_path, "time,a\n0,1\n")
    sensor = open_csv(path, repeat=True)
    with pytest.raises(SensorEndedError, match="holds no rows"):
        for _ in sensor.read(threading.Event()):
            path.write_text("time,a\n")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_gz_file_is_an_error_with_a_name_or_is_read(tmp_path_factory, data):
    rng = np.random.default_rng(1)
    text = "time,a\n" + "".join(f"{n},{x:.4f}\n" for n, x in enumerate(rng.random(300)))
    packed = bytearray(gzip.compress(text.encode()))
    where = data.draw(st.integers(0, len(packed) - 1))
    if data.draw(st.booleans()):
        packed = packed[:where]
    else:
        packed[where] ^= data.draw(st.integers(1, 255))
    path = write(tmp_path_factory.mktemp("damaged"), bytes(packed), "a.csv.gz")
    try:
        samples = read_all(open_csv(path))
    except SensorError as error:
        assert "a.csv.gz" in str(error)
    else:
        assert len(samples) == 300


rows = st.lists(
    st.tuples(
        st.floats(-1e6, 1e6, width=32),
        st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.text(alphabet='abc ,"é', max_size=4),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(rows, st.booleans())
def test_what_was_written_is_what_is_read(tmp_path_factory, rows, quoted):
    """The fast way (plain blocks) and the slow one (quotes) read the same."""

    def cell(text):
        return '"' + text.replace('"', '""') + '"' if quoted or set(text) & set(',"') else text

    rows = sorted(rows, key=lambda row: row[0])
    lines = [f"{t!r},{cell('' if a is None else repr(a))},{cell(what)}\n" for t, a, what in rows]
    path = write(tmp_path_factory.mktemp("rows"), "time,a,what\n" + "".join(lines))
    samples = read_all(open_csv(path, columns={"a": "a"}, label="what"))
    assert samples.time.tolist() == [t for t, _, _ in rows]
    np.testing.assert_array_equal(
        samples.values[0], np.float32([np.nan if a is None else a for _, a, _ in rows])
    )
    assert samples.labels.tolist() == [what.strip() for _, _, what in rows]

"""The stream case by case, with figures one can check by hand."""

import numpy as np
import pytest
from marram.errors import ConfigError, SensorError
from marram.stream.blocks import UNLABELLED
from marram.stream.config import ChannelConfig, StreamConfig
from marram.stream.labels import parse_label

from tests.unit.stream.test_stream import EPOCH, block, stream

NAN = np.nan


def push(made, times, *rows, labels=None, sensor="s"):
    return made.push(sensor, block([EPOCH + t for t in times], rows, labels))


def everything(made, times, *rows, labels=None):
    """Windows of samples with nothing to come."""
    first = push(made, times, *rows, labels=labels)
    rest = made.flush()
    return np.concatenate([first.values, rest.values]), np.concatenate([first.labels, rest.labels])


def counted(made, *names):
    counters = made.counters()
    return tuple(counters[name] for name in names)


def test_samples_on_their_ticks_pass_through_bit_for_bit():
    values = np.float32([1 / 3, 2 / 3, 1e-30, -7e22])
    (window,) = push(stream(), [0, 0.1, 0.2, 0.3], values).values
    assert window[0].tobytes() == values.tobytes()


def test_a_sample_within_a_tenth_of_a_period_passes_through_and_one_beyond_is_interpolated():
    (window,) = push(stream(), [0, 0.109, 0.2, 0.3], [0, 1, 2, 3]).values
    assert window[0].tolist() == [0, 1, 2, 3]
    (window,) = push(stream(), [0, 0.12, 0.2, 0.3], [0, 1.2, 2, 3]).values
    np.testing.assert_allclose(window[0], [0, 1, 2, 3], atol=1e-5)


def test_a_straight_line_comes_out_straight_whatever_the_jitter_and_the_rate():
    rng = np.random.default_rng(7)
    for rate in (4.0, 10.0, 37.0):
        times = np.arange(200) / rate + rng.uniform(-0.4, 0.4, 200) / rate
        times[0] = 0
        times.sort()
        values, _ = everything(stream(length=20, stride=20), times, times)
        ticks = np.arange(values.size).reshape(-1, 20) / 10
        assert values.shape[0] > 1
        np.testing.assert_allclose(values[:, 0], ticks, atol=0.011)


def test_a_sensor_faster_than_the_model_is_not_late():
    made = stream()
    for n in range(40):
        push(made, [n / 20], [n])
    assert counted(made, "late", "windows") == (0, 9)


def test_a_gap_ends_the_run_and_no_window_spans_it():
    made = stream(config=StreamConfig(max_gap=1.0))
    windows = push(made, [0, 0.1, 0.2, 0.3, 0.4, 1.5, 1.6, 1.7, 1.8], range(9))
    assert windows.values[:, 0].tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    np.testing.assert_allclose(windows.start - EPOCH, [0, 1.5], atol=1e-6)
    assert counted(made, "gaps") == (1,)


def test_a_second_sample_of_the_same_time_is_left_out_and_counted():
    made = stream()
    (window,) = push(made, [0, 0.1, 0.1, 0.2, 0.3], [0, 1, 99, 2, 3]).values
    assert window[0].tolist() == [0, 1, 2, 3]
    assert counted(made, "duplicates", "backwards") == (1, 0)


def test_a_sample_a_little_back_in_time_is_left_out_and_counted():
    made = stream()
    (window,) = push(made, [0, 0.1, 0.05, 0.2, 0.3], [0, 1, 99, 2, 3]).values
    assert window[0].tolist() == [0, 1, 2, 3]
    assert counted(made, "duplicates", "backwards", "clock_steps") == (0, 1, 0)


@pytest.mark.parametrize("step", [-3600, -1e9, 1e9])
def test_a_clock_that_is_set_begins_a_run_at_once(step):
    made = stream(length=2, stride=2)
    windows = push(made, [0, 0.1, step, step + 0.1, step + 0.2, step + 0.3], range(6))
    assert windows.values[:, 0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert counted(made, "clock_steps") == (int(step < 0),)


def test_samples_without_a_time_are_left_out_and_counted():
    made = stream()
    (window,) = push(made, [0, NAN, 0.1, 0.2, np.inf, 0.3], [0, 99, 1, 2, 99, 3]).values
    assert window[0].tolist() == [0, 1, 2, 3]
    assert counted(made, "backwards") == (2,)


HOLES = [
    ("interpolate", [0, NAN, NAN, 3, 4, 5, 6, 7], [[0, 1, 2, 3], [4, 5, 6, 7]], [True, False], (2, 0)),
    ("hold", [0, NAN, NAN, 3, 4, 5, 6, 7], [[0, 0, 0, 3], [4, 5, 6, 7]], [True, False], (2, 0)),
    ("flag", [0, NAN, NAN, 3, 4, 5, 6, 7], [[0, 0, 0, 3], [4, 5, 6, 7]], [True, False], (2, 0)),
    ("drop", [0, NAN, NAN, 3, 4, 5, 6, 7], [[4, 5, 6, 7]], [False], (0, 2)),
    # Five ticks are longer than a max_gap of 0.4 s: the run ends, and begins behind the hole.
    ("interpolate", [0, 1, NAN, NAN, NAN, NAN, NAN, 7, 8, 9, 10], [[7, 8, 9, 10]], [False], (0, 5)),
    (
        "hold",
        [0, 1, NAN, NAN, NAN, NAN, NAN, 7, 8, 9, 10],
        [[0, 1, 1, 1], [7, 8, 9, 10]],
        [True, False],
        (4, 1),
    ),
    ("flag", [0, 1, NAN, NAN, NAN, NAN, NAN, 7], [[0, 1, 1, 1], [1, 1, 1, 7]], [True, True], (5, 0)),
    # Nothing before it: it cannot be repaired.
    ("interpolate", [NAN, 1, 2, 3, 4], [[1, 2, 3, 4]], [False], (0, 1)),
    ("flag", [NAN, 1, 2, 3, 4], [[1, 2, 3, 4]], [False], (0, 1)),
]


@pytest.mark.parametrize(("mode", "row", "wanted", "repaired", "counts"), HOLES)
def test_holes_are_filled_as_the_configuration_says(mode, row, wanted, repaired, counts):
    made = stream(length=4, stride=4, config=StreamConfig(missing=mode, max_gap=0.4))
    windows = push(made, np.arange(len(row)) / 10, row)
    np.testing.assert_allclose(windows.values[:, 0], wanted, atol=1e-6)
    assert windows.repaired.tolist() == repaired
    made.flush()
    assert counted(made, "x.filled", "x.lost") == counts


LIMITS = [
    ("clip", [0, 5, 2, 3], True, 0),
    ("flag", [0, 9, 2, 3], True, 0),
    ("missing", [0, 1, 2, 3], True, 1),
]


@pytest.mark.parametrize(("rule", "wanted", "repaired", "filled"), LIMITS)
def test_an_impossible_value_becomes_the_limit_missing_or_itself(rule, wanted, repaired, filled):
    config = StreamConfig(channels={"x": ChannelConfig(min=-5, max=5, out_of_range=rule)})
    made = stream(config=config)
    windows = push(made, [0, 0.1, 0.2, 0.3], [0, 9, 2, 3])
    assert windows.values[0, 0].tolist() == wanted
    assert windows.repaired.tolist() == [repaired]
    assert counted(made, "x.out_of_range", "x.filled", "x.missing") == (1, filled, 0)


def test_limits_are_in_the_models_unit():
    config = StreamConfig(channels={"x": ChannelConfig(scale=0.1, offset=100, max=100.5)})
    made = stream(config=config)
    windows = push(made, [0, 0.1, 0.2, 0.3], [0, 1, 5, 10])
    np.testing.assert_allclose(windows.values[0, 0], [100, 100.1, 100.5, 100.5], rtol=1e-6)
    assert counted(made, "x.out_of_range") == (1,)


@pytest.mark.parametrize("rule", ["flag", "missing"])
def test_a_stuck_channel_is_flagged_or_missing_after_its_time(rule):
    config = StreamConfig(missing="drop", channels={"x": ChannelConfig(stuck_after=0.25, stuck=rule)})
    made = stream(length=1, stride=1, config=config)
    windows = push(made, np.arange(8) / 10, [4, 4, 4, 4, 4, 5, 5, 5])
    assert counted(made, "x.stuck") == (2,)
    if rule == "flag":
        assert windows.repaired.tolist() == [False] * 3 + [True] * 2 + [False] * 3
    else:
        assert windows.values[:, 0, 0].tolist() == [4, 4, 4, 5, 5, 5]


@pytest.mark.filterwarnings("error")
def test_a_value_that_its_scale_makes_infinite_is_missing():
    made = stream(config=StreamConfig(channels={"x": ChannelConfig(scale=1e30)}))
    windows = push(made, [0, 0.1, 0.2, 0.3], [0, 1e30, np.inf, 0])
    assert windows.values[0, 0].tolist() == [0, 0, 0, 0]
    assert counted(made, "x.missing") == (2,)


def test_infinity_is_missing():
    made = stream()
    windows = push(made, [0, 0.1, 0.2, 0.3], [0, np.inf, -np.inf, 3])
    assert windows.values[0, 0].tolist() == [0, 1, 2, 3]
    assert counted(made, "x.missing") == (2,)


# Several sensors


def two(**keys):
    return stream(("x", "y"), sensors={"s": ("x",), "t": ("y",)}, **keys)


def test_sensors_of_different_rates_meet_on_the_models_clock():
    made = two(replays=("s", "t"))
    push(made, np.arange(11) / 10, np.arange(11))
    windows = push(made, np.arange(6) / 5, np.arange(6) * 2, sensor="t")
    np.testing.assert_allclose(windows.values[0], [[0, 1, 2, 3]] * 2, atol=1e-5)
    assert len(windows) == 4


def test_a_silent_live_sensor_is_waited_for_no_longer_than_the_gap():
    made = two(config=StreamConfig(max_gap=1.0, missing="flag"))
    push(made, [0, 0.1, 0.2], [0, 0, 0], sensor="t")
    first = push(made, np.arange(11) / 10, np.arange(11))
    assert len(first) == 0
    later = push(made, np.arange(11, 40) / 10, np.arange(11, 40))
    assert len(later) > 10
    assert later.repaired.any()


def test_what_comes_after_its_ticks_went_out_is_counted_as_late():
    made = two(config=StreamConfig(max_gap=1.0, missing="flag"))
    push(made, [0, 0.1, 0.2], [0, 0, 0], sensor="t")
    push(made, np.arange(40) / 10, np.arange(40))
    push(made, [0.3, 0.4, 0.5], [0, 0, 0], sensor="t")
    assert counted(made, "late") == (3,)


def test_a_replay_is_waited_for_until_it_says_that_it_has_ended():
    made = two(replays=("s", "t"), config=StreamConfig(missing="flag"))
    push(made, [0, 0.1, 0.2, 0.3], [0, 0, 0, 0], sensor="t")
    first = push(made, np.arange(100) / 10, np.arange(100))
    assert len(first) == 1
    assert made.ahead("s") == pytest.approx(9.6)
    assert made.ahead("t") == 0
    assert len(made.ended("t")) == 48


def test_a_sensor_that_feeds_no_channel_is_taken_and_ignored():
    made = stream(("x",), sensors={"s": ("x",), "t": ("z",)})
    assert len(push(made, [0, 1], [1, 2], sensor="t")) == 0
    assert len(push(made, [0, 0.1, 0.2, 0.3], [0, 1, 2, 3])) == 1
    assert len(made.ended("t")) == 0
    assert made.ahead("t") == 0


def test_channels_are_found_by_name_or_by_source_and_come_in_the_models_order():
    config = StreamConfig(channels={"y": ChannelConfig(source="s.other")})
    made = stream(("x", "y"), sensors={"s": ("other", "x")}, config=config)
    (window,) = push(made, [0, 0.1, 0.2, 0.3], [5, 6, 7, 8], [0, 1, 2, 3]).values
    assert window.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]


def test_every_channel_without_a_clear_source_is_named_at_once():
    config = StreamConfig(channels={"yy": ChannelConfig(), "z": ChannelConfig(source="s.none")})
    with pytest.raises(ConfigError) as caught:
        stream(("x", "y", "z"), sensors={"s": ("x",), "t": ("x",)}, config=config)
    text = str(caught.value)
    assert "stream.channels.yy: the model has no such channel, it has x, y, z; did you mean 'y'?" in text
    assert "the channel x has several sources: set stream.channels.x.source to s.x or t.x" in text
    assert "the channel y has no source: set stream.channels.y.source" in text
    assert "stream.channels.z.source: there is no sensor channel s.none" in text
    assert "the sensors offer: s.x, t.x" in text


def test_samples_of_another_shape_than_the_sensor_promised_are_refused():
    with pytest.raises(SensorError, match=r"sensor s: expected values of shape \(1, 2\), found \(2, 2\)"):
        push(stream(), [0, 1], [1, 2], [3, 4])
    with pytest.raises(SensorError, match="sensor nobody: expected values of shape"):
        push(stream(), [0, 1], [1, 2], sensor="nobody")


# Labels

TIMES = np.arange(8) / 10


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (["a"] * 8, ["a", "a"]),
        (["a", "a", "", "", "b", "b", "b", ""], ["a", "b"]),
        (["a", "", "", "", "a", "b", "b", "b"], ["", "b"]),
        (["a", "a", "b", "b", "c", "c", "c", "c"], ["a", ""]),
    ],
)
def test_a_window_has_the_label_that_its_column_says_for_at_least_half_of_it(column, wanted):
    made = stream(stride=4)
    _, labels = everything(made, TIMES, np.zeros(8), labels=column)
    assert [("a", "b", "")[code] for code in labels] == wanted
    assert counted(made, "unknown_labels") == (column.count("c"),)


def test_a_span_labels_the_windows_to_come_and_wins_over_the_column():
    made = stream(stride=4)
    assert made.label_track.add("b", EPOCH + 0.14, EPOCH + 0.9)
    assert not made.label_track.add("c", EPOCH, EPOCH + 1)
    windows = push(made, TIMES, np.zeros(8), labels=["a"] * 8)
    assert windows.labels.tolist() == [1, 1]
    assert counted(made, "unknown_labels") == (1,)


def test_a_span_that_covers_less_than_half_of_a_window_does_not_label_it():
    made = stream(stride=4)
    made.label_track.add("b", EPOCH + 0.2, EPOCH + 0.5)
    assert push(made, TIMES, np.zeros(8)).labels.tolist() == [UNLABELLED, UNLABELLED]


def test_of_two_spans_the_one_named_last_wins():
    made = stream(stride=4)
    made.label_track.add("b", EPOCH, EPOCH + 1)
    made.label_track.add("a", EPOCH, EPOCH + 0.35)
    assert push(made, TIMES, np.zeros(8)).labels.tolist() == [0, 1]


def test_a_label_message_is_read():
    message = parse_label(b'{"label": "ER", "from": 5, "to": 6.5}')
    assert (message.label, message.start, message.end) == ("ER", 5, 6.5)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"label": "ER"}',
        b'{"label": 5, "from": 1, "to": 2}',
        b'{"label": "ER", "from": 2, "to": 1}',
        b'{"label": "ER", "from": null, "to": 1}',
        b'{"label": "ER", "from": 1e999, "to": 1}',
        b"[" * 100_000,
    ],
    ids=lambda payload: repr(payload[:30]),
)
def test_what_is_no_label_message_is_a_value_error_that_says_so(payload):
    with pytest.raises(ValueError, match=r"not a label message|must begin before it ends"):
        parse_label(payload)


def test_a_stride_longer_than_the_window_leaves_ticks_out():
    made = stream(length=2, stride=5)
    found = [push(made, [t], [n]).values for n, t in enumerate(np.arange(14) / 10)]
    assert np.concatenate(found)[:, 0].tolist() == [[0, 1], [5, 6], [10, 11]]


def test_after_a_flush_the_next_samples_begin_a_run():
    made = stream()
    push(made, [0, 0.1, 0.2], [0, 1, 2])
    assert len(made.flush()) == 0
    assert push(made, [0.3, 0.4, 0.5, 0.6], [3, 4, 5, 6]).values[:, 0].tolist() == [[3, 4, 5, 6]]

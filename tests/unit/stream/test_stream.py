"""Samples to windows: against a slow reference, and the same however the samples are cut into blocks."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marram.stream.blocks import UNLABELLED, Samples, Windows
from marram.stream.config import ChannelConfig, StreamConfig
from marram.stream.stream import Stream

from tests.unit.stream import reference

LABELS = ("a", "b")
EPOCH = 1.7e9
common = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def stream(channels=("x",), rate=10.0, length=4, stride=2, sensors=None, config=None, replays=()):
    sensors = sensors or {"s": channels}
    return Stream(channels, rate, length, stride, LABELS, sensors, config or StreamConfig(), replays=replays)


def block(times, rows, labels=None):
    values = np.array(rows, dtype=np.float32).reshape(len(rows), len(times))
    return Samples(
        np.array(times, dtype=np.float64), values, None if labels is None else np.array(labels, dtype=np.str_)
    )


def part(samples, start, stop):
    labels = None if samples.labels is None else samples.labels[start:stop]
    return Samples(samples.time[start:stop], samples.values[:, start:stop], labels)


def same(one, two):
    np.testing.assert_array_equal(one.start, two.start)
    np.testing.assert_array_equal(one.end, two.end)
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.repaired, two.repaired)


def run_in_blocks(made, samples, cuts):
    edges = [0, *sorted(cuts), len(samples)]
    parts = [made.push("s", part(samples, *edge)) for edge in pairwise(edges)]
    parts.append(made.flush())
    return Windows.join(parts)


@st.composite
def recordings(draw):
    """Times about a 10 Hz grid: jitter, faster and slower stretches, gaps, duplicates, small steps back."""
    steps = st.sampled_from([0.1] * 8 + [0.1002, 0.093, 0.05, 0.13, 0.25, 0.4, 1.0, 1.01, 1.7, 0.0, -0.05])
    count = draw(st.integers(1, 60))
    gaps = draw(st.lists(steps, min_size=count, max_size=count))
    exact = draw(st.booleans())
    times = EPOCH + np.cumsum(gaps) if not exact else EPOCH + np.arange(count) / 10
    value = st.sampled_from([0.0, 0.0, 0.0, 1.0, 2.5, -3.0, 7.25, 1e30, np.nan, np.inf])
    rows = draw(st.lists(st.lists(value, min_size=count, max_size=count), min_size=2, max_size=2))
    labels = draw(
        st.none() | st.lists(st.sampled_from(["a", "a", "b", "", "strange"]), min_size=count, max_size=count)
    )
    return block(times, rows, labels)


channel_configs = st.builds(
    ChannelConfig,
    scale=st.sampled_from([1.0, 0.5]),
    offset=st.sampled_from([0.0, 1.0]),
    min=st.sampled_from([-2.0]),
    max=st.sampled_from([5.0]),
    out_of_range=st.sampled_from(["clip", "missing", "flag"]),
    stuck_after=st.sampled_from([None, 0.15, 0.35]),
    stuck=st.sampled_from(["flag", "missing"]),
)
stream_configs = st.builds(
    StreamConfig,
    max_gap=st.sampled_from([0.35, 1.0]),
    missing=st.sampled_from(["interpolate", "hold", "flag", "drop"]),
    channels=st.fixed_dictionaries({"x": channel_configs, "y": channel_configs}),
)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 8))


@common
@given(recordings(), stream_configs, shapes, st.lists(st.integers(0, 60), max_size=8))
def test_any_cutting_of_the_samples_into_blocks_gives_the_same_windows(samples, config, shape, cuts):
    length, stride = shape
    whole = stream(("x", "y"), length=length, stride=stride, config=config)
    cut = stream(("x", "y"), length=length, stride=stride, config=config)
    same(
        run_in_blocks(whole, samples, []), run_in_blocks(cut, samples, [c for c in cuts if c <= len(samples)])
    )
    assert whole.counters() == cut.counters()


@common
@given(recordings(), stream_configs, shapes)
def test_windows_are_those_of_the_plain_reference(samples, config, shape):
    length, stride = shape
    made = stream(("x", "y"), length=length, stride=stride, config=config)
    found = run_in_blocks(made, samples, [])
    labels = [
        "" if samples.labels is None or name not in LABELS else str(name)
        for name in (samples.labels if samples.labels is not None else [""] * len(samples))
    ]
    rows = [(t, samples.values[:, n].tolist(), labels[n]) for n, t in enumerate(samples.time.tolist())]
    channels = [
        SimpleNamespace(
            **{
                name: getattr(config.channels[key], name)
                for name in ("scale", "offset", "min", "max", "out_of_range", "stuck_after", "stuck")
            },
            max_gap=config.max_gap,
        )
        for key in ("x", "y")
    ]
    wanted = reference.windows(rows, 10.0, length, stride, config.max_gap, config.missing, channels)
    assert len(found) == len(wanted)
    for n, (start, end, values, label, repaired) in enumerate(wanted):
        assert found.start[n] == pytest.approx(start, abs=1e-6)
        assert found.end[n] == pytest.approx(end, abs=1e-6)
        np.testing.assert_allclose(found.values[n], np.float32(values), rtol=1e-4, atol=1e-3)
        assert found.labels[n] == (LABELS.index(label) if label else UNLABELLED)
        assert found.repaired[n] == repaired


@common
@given(recordings(), stream_configs, shapes)
def test_windows_are_never_nan_and_have_the_models_shape(samples, config, shape):
    length, stride = shape
    found = run_in_blocks(stream(("x", "y"), length=length, stride=stride, config=config), samples, [5, 9])
    assert found.values.shape == (len(found), 2, length)
    assert found.values.dtype == np.float32
    assert found.values.flags.c_contiguous
    assert np.isfinite(found.values).all()
    np.testing.assert_allclose(found.end - found.start, (length - 1) / 10, atol=1e-6)
    assert (np.diff(found.start) > 0).all()


@common
@given(st.data(), st.sampled_from([(10, 10), (10, 25), (10, 4), (33.3, 7)]), shapes)
def test_two_recordings_give_the_same_windows_however_their_blocks_come(data, rates, shape):
    length, stride = shape
    sources = {}
    for name, rate in zip(("s", "t"), rates, strict=True):
        count = data.draw(st.integers(2, 40))
        jitter = data.draw(st.lists(st.floats(-0.3, 0.3), min_size=count, max_size=count))
        start = data.draw(st.floats(0, 0.5))
        times = EPOCH + start + (np.arange(count) + np.array(jitter)) / rate
        sources[name] = block(times, [np.arange(count)])

    def run(order):
        made = stream(
            ("x", "y"), length=length, stride=stride, sensors={"s": ("x",), "t": ("y",)}, replays=("s", "t")
        )
        at, parts = {"s": 0, "t": 0}, []
        for name, count in [*order, ("s", 99), ("t", 99)]:
            parts.append(made.push(name, part(sources[name], at[name], at[name] + count)))
            at[name] = min(at[name] + count, len(sources[name]))
        return Windows.join([*parts, made.flush()])

    orders = st.lists(st.tuples(st.sampled_from(["s", "t"]), st.integers(1, 9)), max_size=12)
    same(run(data.draw(orders)), run(data.draw(orders)))


# ---- another stream in its place


@common
@given(recordings(), stream_configs, shapes, st.lists(st.integers(0, 60), max_size=8))
def test_streams_of_one_layout_that_take_each_others_place_lose_and_double_nothing(
    samples, config, shape, cuts
):
    length, stride = shape
    whole = stream(("x", "y"), length=length, stride=stride, config=config)
    now = stream(("x", "y"), length=length, stride=stride, config=config)
    parts = []
    for edge in pairwise([0, *sorted(c for c in cuts if c <= len(samples)), len(samples)]):
        parts.append(now.push("s", part(samples, *edge)))
        # A sensor that feeds nothing may come and go.
        offered = {"s": ("x", "y"), "other": ("z",)} if len(parts) % 2 else {"s": ("x", "y")}
        after = stream(("x", "y"), length=length, stride=stride, config=config, sensors=offered)
        parts.append(after.go_on_from(now))
        now = after
    parts.append(now.flush())
    same(run_in_blocks(whole, samples, []), Windows.join(parts))
    assert whole.counters() == now.counters()


@common
@given(recordings(), st.lists(st.tuples(st.integers(0, 60), stream_configs), max_size=6), shapes)
def test_streams_that_differ_make_windows_in_order_and_no_time_twice(samples, changes, shape):
    length, stride = shape
    now = stream(("x", "y"), length=length, stride=stride)
    times = samples.time[: 1 + int(np.argmax(np.diff(samples.time, append=-np.inf) <= 0))]
    samples = part(samples, 0, len(times))
    parts, begin = [], 0
    for end, config in sorted(changes, key=lambda change: change[0]):
        parts.append(now.push("s", part(samples, begin, end)))
        after = stream(("x", "y"), length=length, stride=stride, config=config)
        counted = now.counters()
        parts.append(after.go_on_from(now))
        assert all(after.counters()[name] >= count for name, count in counted.items())
        now, begin = after, max(begin, end)
    parts.append(now.push("s", part(samples, begin, len(samples))))
    parts.append(now.flush())
    windows = Windows.join(parts)
    assert now.counters()["windows"] == len(windows)
    assert (np.diff(windows.start) > 0).all()


def test_limits_of_a_channel_change_in_the_middle_of_a_window():
    made = stream(length=4, stride=4)
    assert not len(made.push("s", block([0.0, 0.1], [[1, 9]])))
    after = stream(length=4, stride=4, config=StreamConfig(channels={"x": ChannelConfig(max=5)}))
    assert not len(after.go_on_from(made))
    windows = Windows.join([after.push("s", block([0.2, 0.3], [[1, 9]])), after.flush()])
    assert windows.values.tolist() == [[[1, 9, 1, 5]]]
    assert after.counters()["x.out_of_range"] == 1


def test_another_source_begins_a_new_run_after_the_windows_of_the_old_one():
    sensors = {"s": ("x",), "t": ("x",)}
    one, two = (StreamConfig(channels={"x": ChannelConfig(source=f"{name}.x")}) for name in "st")
    made = stream(length=2, stride=2, sensors=sensors, config=one)
    made.push("s", block([0.0, 0.1, 0.2], [[1, 2, 3]]))
    made.label_track.add("b", 1.0, 2.0)
    after = stream(length=2, stride=2, sensors=sensors, config=two)
    after.go_on_from(made)
    assert not len(after.push("s", block([0.3, 0.4], [[4, 5]])))
    windows = Windows.join([after.push("t", block([1.0, 1.1], [[6, 7]])), after.flush()])
    assert (windows.values.tolist(), windows.labels.tolist()) == ([[[6, 7]]], [1])

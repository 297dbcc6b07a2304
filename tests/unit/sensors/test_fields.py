"""Decoded messages to samples: whatever a message holds becomes a sample, or missing, or malformed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.sensors.fields import FieldMapper, MalformedError, parse_time
from marram.sensors.stdin import StdinConfig


def mapper(channels, **keys):
    return FieldMapper(StdinConfig(name="pipe", channels=channels, **keys))


def values(mapper, *messages):
    samples = mapper.samples((float(n), message) for n, message in enumerate(messages))
    return None if samples is None else samples.values.T.tolist()


def test_fields_are_found_by_name_by_path_and_by_place_in_a_list():
    by_name = mapper(("a", "b"))
    assert by_name.channels == ("a", "b")
    assert values(by_name, {"b": 2, "a": 1, "c": 3}) == [[1, 2]]
    assert values(mapper({"x": "imu.accel.0", "y": "imu.accel.1"}), {"imu": {"accel": [1, 2.5]}}) == [
        [1, 2.5]
    ]
    assert values(mapper({"x": "."}), 4, 5) == [[4], [5]]


def test_a_list_is_several_readings_and_readings_may_lie_deeper():
    assert values(mapper(("a",)), [{"a": 1}, {"a": 2}]) == [[1], [2]]
    assert values(mapper(("a",), readings="data.rows"), {"data": {"rows": [{"a": 1}, {"a": 2}]}}) == [
        [1],
        [2],
    ]


def test_an_absent_or_null_field_is_missing_but_not_all_of_them():
    some = mapper(("a", "b"))
    np.testing.assert_array_equal(values(some, {"a": 1}, {"a": None, "b": 2}), [[1, np.nan], [np.nan, 2]])
    assert values(some, {"c": 1}) is None
    assert some.counters["malformed"] == 1
    assert "none of the channels is in {'c': 1}" in some.first_malformed


def test_the_time_is_a_field_or_the_arrival():
    assert mapper(("a",)).samples([(7.5, {"a": 1})]).time.tolist() == [7.5]
    own = mapper(("a",), time="t", time_unit="ms")
    assert own.samples([(7.5, [{"a": 1, "t": 1500}, {"a": 1, "t": 1501}])]).time.tolist() == [1.5, 1.501]


def test_readings_that_go_backwards_are_counted_and_left_out():
    own = mapper(("a",), time="t")
    assert values(own, {"a": 1, "t": 5}, {"a": 2, "t": 4}, {"a": 3, "t": 5}, {"a": 4, "t": 6}) == [
        [1],
        [3],
        [4],
    ]
    assert own.counters == {"messages": 4, "malformed": 0, "backwards": 1}


def test_labels_come_along():
    samples = mapper(("a",), label="what").samples(
        [(0, [{"a": 1, "what": "ER"}, {"a": 2}, {"a": 3, "what": 4}])]
    )
    assert samples.labels.tolist() == ["ER", "", "4"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"a": "much", "t": 1}, "expected a number at a, found 'much'"),
        ({"a": [1], "t": 1}, "expected a number at a, found [1]"),
        ({"a": 1}, "expected a number as time, found None"),
        ({"a": 1, "t": "1"}, "expected a number as time, found '1'"),
        ({"a": 1, "t": True}, "expected a number as time, found True"),
        ({"a": 1, "t": math.inf}, "expected a number as time, found inf"),
        ({"a": 1, "t": 10**400}, "expected a number as time, found 1000"),
        ({"a": 1, "t": 1, "what": {"no": "label"}}, "expected a label of at most 200 characters"),
        ({"a": 1, "t": 1, "what": "x" * 1_000_000}, "expected a label of at most 200 characters"),
        (None, "none of the channels"),
        ("a", "none of the channels"),
    ],
)
def test_a_message_that_does_not_fit_is_counted_with_the_first_reason(message, words):
    own = mapper(("a",), time="t", label="what")
    assert values(own, message, {"a": 1, "t": 2}) == [[1]]
    assert own.counters["malformed"] == 1
    assert own.first_malformed.startswith(words)


def test_a_number_too_large_for_a_float_is_an_impossible_value_and_no_error():
    assert values(mapper(("a", "b")), {"a": 10**400, "b": 1}) == [[math.inf, 1]]


def test_what_lies_where_the_readings_should_be_is_said():
    own = mapper(("a",), readings="rows")
    assert values(own, {"rows": 5}) is None
    assert own.first_malformed == "expected a list at rows, found 5"


@pytest.mark.parametrize(
    ("value", "unit"), [("12", "iso"), (5, "iso"), ("2026-13-01", "iso"), ("soon", "iso"), (None, "s")]
)
def test_what_is_no_time_is_malformed(value, unit):
    with pytest.raises(MalformedError):
        parse_time(value, unit)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "t", "r"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(anything, max_size=8),
    st.sampled_from([("a",), {"x": "a.0", "y": "."}, {"x": "a.b"}]),
    st.sampled_from(
        [{}, {"time": "t"}, {"time": "t", "time_unit": "iso"}, {"readings": "r"}, {"label": "b"}]
    ),
)
def test_any_messages_at_all_give_samples_or_are_counted(messages, channels, keys):
    own = mapper(channels, **keys)
    samples = own.samples((float(n), message) for n, message in enumerate(messages))
    assert own.counters["messages"] == len(messages)
    if samples is not None:
        assert samples.values.shape == (len(own.channels), len(samples))
        assert samples.values.dtype == np.float32
        assert np.isfinite(samples.time).all()
        assert (np.diff(samples.time) >= 0).all()
    if own.counters["malformed"]:
        assert own.first_malformed

"""The ranges of activations on their way: rounded up, clipped, and nothing that is no range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.errors import WireError
from marram.wire import reasons
from marram.wire.ranges import LARGEST, decode, encode

LIMIT = 1e6
ENDS = st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20)
SMALLEST = LARGEST * 2.0 ** (-254 / 8)


def arrays(ends):
    values = np.array(ends)
    return np.minimum(values, 0), np.maximum(values, 0)


@given(ENDS)
def test_what_arrives_holds_what_was_seen_and_little_more(ends):
    low, high = arrays(ends)
    found = decode(encode(low, high, LIMIT), len(ends), LIMIT)
    for seen, told in ((-low, -found[0]), (high, found[1])):
        clipped = np.minimum(seen, LIMIT)
        assert (told >= clipped * (1 - 1e-6)).all()
        assert (
            told <= np.where(seen > 0, np.maximum(clipped * 2 ** (1 / 8), SMALLEST) * (1 + 1e-6), 0)
        ).all()


@given(st.binary(min_size=2, max_size=40).filter(lambda data: len(data) % 2 == 0))
def test_whatever_arrives_is_a_finite_range_around_zero_or_is_refused(payload):
    try:
        low, high = decode(payload, len(payload) // 2, LIMIT)
    except WireError as error:
        assert error.reason == reasons.BAD_VALUES
        return
    assert np.isfinite([low, high]).all()
    assert (low <= 0).all() and (high >= 0).all()
    assert max(-low.min(), high.max()) <= LIMIT * 2 ** (1 / 8)
    assert encode(low, high, LIMIT) == payload


@given(ENDS, st.integers(-3, 3).filter(bool))
def test_another_number_of_activations_is_refused(ends, more):
    payload = encode(*arrays(ends), LIMIT)
    with pytest.raises(WireError, match="were asked for"):
        decode(payload, len(ends) + more, LIMIT)


def test_what_goes_beyond_the_limit_is_refused():
    payload = encode(np.array([-1.0]), np.array([5e5]), LIMIT)
    with pytest.raises(WireError, match="beyond 1000"):
        decode(payload, 1, 1000.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_device_does_not_tell_what_is_not_finite(value):
    with pytest.raises(WireError, match="not finite"):
        encode(np.array([0.0]), np.array([value]), LIMIT)

"""Many devices' ranges as one: honest extremes count, liars stretch nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from marram_cloud.compression.fleet import combine

SIZES = st.lists(st.floats(0.1, 100.0), min_size=5, max_size=30)


def told(sizes):
    return {f"device-{number}": (np.array([-size]), np.array([size])) for number, size in enumerate(sizes)}


@given(SIZES)
def test_as_many_liars_as_are_trimmed_stretch_no_range_beyond_an_honest_device(sizes):
    liars = -(-len(sizes) // 5)
    honest = sizes[liars:]
    low, high = combine(told([1e6] * liars + honest), ["a"], 0.2)["a"]
    assert high <= max(honest)
    assert low >= -max(honest)


@given(SIZES)
def test_all_but_the_trimmed_devices_see_their_own_extremes_inside(sizes):
    low, high = combine(told(sizes), ["a"], 0.2)["a"]
    dropped = -(-len(sizes) // 5)
    assert sum(size <= high for size in sizes) >= len(sizes) - dropped
    assert sum(-size >= low for size in sizes) >= len(sizes) - dropped


def test_each_activation_and_each_end_is_taken_for_itself():
    ranges = {
        "a": (np.array([-1.0, -9.0]), np.array([2.0, 3.0])),
        "b": (np.array([-2.0, -1.0]), np.array([9.0, 1.0])),
        "c": (np.array([-9.0, -2.0]), np.array([1.0, 2.0])),
    }
    assert combine(ranges, ["x", "y"], 0.0) == {"x": (-2.0, 2.0), "y": (-2.0, 2.0)}

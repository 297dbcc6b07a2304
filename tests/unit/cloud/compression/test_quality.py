"""Accuracy with its interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram_cloud.compression.quality import judge, wilson


@given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_holds_the_part_and_stays_within_0_and_1(case):
    right, total = case
    low, high = wilson(right, total)
    assert 0 <= low <= right / total + 1e-12
    assert right / total - 1e-12 <= high <= 1
    mirrored = wilson(total - right, total)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-9)


def test_the_interval_is_that_of_the_literature():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_windows_without_a_label_are_left_out():
    scores = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    quality = judge({"scores": scores}, np.array([0, 2, 2, -1]), 3)
    assert (quality.windows, quality.accuracy) == (3, pytest.approx(2 / 3))
    assert quality.confusion == ((1, 0, 0), (0, 0, 0), (0, 1, 1))


def test_a_model_without_labels_is_judged_by_its_score():
    better, worse = (judge({"score": np.full(4, value)}, None, 0) for value in (2.0, 2.5))
    assert worse.worse_than(better) == pytest.approx(0.25)

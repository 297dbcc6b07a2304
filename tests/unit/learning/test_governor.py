"""The governor: allowed, or the reason why not."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.config.schema import Governor
from marram.learning.governor import Conditions, decide

GOOD = Conditions(
    cpu=10, free_memory=1 << 30, paused="", battery=None, minute=720, trainable=100, seen=80, new=100
)


def test_good_conditions_are_allowed():
    assert decide(Governor(), GOOD, 100) == (True, "")


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({"trainable": 99}, {}, ["99 windows", "100 are needed"]),
        ({"seen": 0}, {}, ["all 100 windows", "held out"]),
        ({"new": 4}, {"min_new_samples": 5}, ["4 new windows", "5 are needed"]),
        ({"minute": 23 * 60}, {"quiet_hours": ("22:00-06:00",)}, ["quiet hours", "22:00-06:00"]),
        ({"battery": 90}, {}, ["on battery"]),
        ({"battery": 30}, {"on_battery": True}, ["battery at 30 %", "50 % are needed"]),
        ({"paused": "too hot"}, {}, ["too hot"]),
        ({"busy": True}, {}, ["another training runs"]),
        ({"cpu": 81}, {}, ["81 %", "80 %"]),
        ({"free_memory": 10 << 20}, {}, ["10 MiB", "64 are needed"]),
    ],
)
def test_each_bad_condition_is_refused_with_its_reason(change, settings, words):
    allowed, reason = decide(Governor(**settings), replace(GOOD, **change), 100)
    assert not allowed
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize(
    ("hours", "minute", "quiet"),
    [
        ("22:00-06:00", 22 * 60 - 1, False), ("22:00-06:00", 22 * 60, True), ("22:00-06:00", 0, True),
        ("22:00-06:00", 6 * 60 - 1, True), ("22:00-06:00", 6 * 60, False),
        ("12:30-13:15", 12 * 60 + 29, False), ("12:30-13:15", 12 * 60 + 30, True),
        ("12:30-13:15", 13 * 60 + 14, True), ("12:30-13:15", 13 * 60 + 15, False),
    ],
)  # fmt: skip
def test_quiet_hours_hold_from_their_first_minute_to_before_their_last_also_over_midnight(
    hours, minute, quiet
):
    allowed, _ = decide(Governor(quiet_hours=(hours,)), replace(GOOD, minute=minute), 1)
    assert allowed is not quiet


def test_a_machine_without_a_battery_may_train():
    assert decide(Governor(), replace(GOOD, battery=None), 1)[0]


conditions = st.builds(
    Conditions,
    cpu=st.floats(0, 100),
    free_memory=st.integers(0, 1 << 36),
    paused=st.sampled_from(["", "too hot"]),
    battery=st.none() | st.floats(0, 100),
    minute=st.integers(0, 1439),
    trainable=st.integers(0, 10**6),
    new=st.integers(0, 10**6),
)
governors = st.builds(
    Governor,
    max_cpu=st.floats(0, 100),
    min_free_memory=st.integers(0, 1 << 36),
    on_battery=st.booleans(),
    min_battery=st.floats(0, 100),
    min_new_samples=st.integers(0, 1000),
    quiet_hours=st.lists(st.sampled_from(["22:00-06:00", "12:30-13:15", "00:00-23:59"]), max_size=2).map(
        tuple
    ),
)


@given(governors, conditions, st.integers(1, 1000))
def test_a_refusal_always_has_a_reason_and_a_permission_never(settings, measured, minimum):
    allowed, reason = decide(settings, measured, minimum)
    assert allowed == (reason == "")


@given(governors, conditions, st.integers(1, 1000))
def test_better_conditions_never_turn_a_permission_into_a_refusal(settings, measured, minimum):
    better = replace(
        measured, cpu=0.0, free_memory=1 << 40, paused="", battery=None,
        trainable=measured.trainable + 1, new=measured.new + 1,
    )  # fmt: skip
    if decide(settings, measured, minimum)[0]:
        assert decide(settings, better, minimum)[0]

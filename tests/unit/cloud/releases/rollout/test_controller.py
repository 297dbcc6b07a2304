"""When a roll-out stops, waits and goes on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.wire.rollout import Plan
from marram_cloud.releases.rollout.controller import Advance, Limits, Outcome, Stop, Wait, decide
from marram_cloud.releases.rollout.document import Schedule

NAMES = [f"device-{number}" for number in range(40)]
ALL = Plan("m/1.onnx", "a" * 64, "salt", share=1.0)
LIMITS = Limits()


def outcomes(committed=0, failed=0, trial=0, changed=100.0):
    stages = ["committed"] * committed + ["rolled_back"] * failed + ["trial"] * trial
    return {NAMES[number]: Outcome(stage, changed, "NaN") for number, stage in enumerate(stages)}


def asked(found, *, online=NAMES, plan=ALL, then=("all",), soak=0, began=0.0, now=1000.0, limits=LIMITS):
    return decide(plan, Schedule(round(began * 1000), then, soak), online, found, limits, now)


def test_it_goes_on_when_enough_of_the_devices_that_are_online_run_it():
    assert asked(outcomes(committed=36)) == Advance()
    assert isinstance(asked(outcomes(committed=35)), Wait)
    assert asked(outcomes(committed=9), online=NAMES[:10]) == Advance()


def test_it_soaks_from_the_moment_that_enough_run_it():
    found = outcomes(committed=39) | {NAMES[39]: Outcome("committed", 900.0)}
    assert asked(found, soak=500, now=599.0) == Wait("soaks for another 1 s", 600.0)
    assert asked(found, soak=500, now=600.0) == Advance()
    assert isinstance(asked(found, soak=500, began=300.0, now=600.0), Wait)


def test_without_a_further_stage_it_stays():
    assert asked(outcomes(committed=40), then=()) == Wait("no further stage is planned")


def test_nobody_online_is_nothing_to_go_on_with():
    assert isinstance(asked({}, online=()), Wait)


@pytest.mark.parametrize(
    ("committed", "failed", "trial", "stops"),
    [
        (18, 2, 0, False),  # one in ten is allowed
        (17, 2, 0, True),
        (0, 1, 0, False),  # one, and others are still to come
        (0, 2, 30, True),
        (1, 2, 0, True),
        (5, 1, 0, False),
    ],
)
def test_it_stops_when_too_many_went_back(committed, failed, trial, stops):
    decision = asked(outcomes(committed, failed, trial))
    assert isinstance(decision, Stop) == stops
    if stops:
        assert decision.reason == (
            f"{failed} of {failed + committed} devices that finished went back: {failed} x NaN"
        )


def test_one_failure_stops_a_stage_of_one_device():
    plan = Plan("m/1.onnx", "a" * 64, "salt", devices=(NAMES[0],))
    assert isinstance(asked(outcomes(failed=1), plan=plan), Stop)


def test_failures_from_before_the_stage_or_a_resume_count_no_more():
    found = outcomes(failed=5, committed=5)
    assert isinstance(asked(found, began=100.0), Stop)
    assert isinstance(asked(found, began=101.0), Wait)


def test_a_group_is_judged_by_those_that_report():
    plan = Plan("m/1.onnx", "a" * 64, "salt", groups=("night",))
    assert asked(outcomes(committed=3), plan=plan) == Advance()
    assert isinstance(asked(outcomes(committed=3, trial=3), plan=plan), Wait)


def test_a_paused_plan_does_nothing():
    plan = Plan("m/1.onnx", "a" * 64, "salt", share=1.0, paused=True)
    assert asked(outcomes(failed=9), plan=plan) == Wait("paused")


STAGES = st.sampled_from(["idle", "fetching", "verified", "preflighted", "trial", "committed", "rolled_back"])
FOUND = st.dictionaries(
    st.sampled_from(NAMES), st.builds(Outcome, STAGES, st.integers(0, 2000), st.just("r")), max_size=40
)


@given(FOUND, st.sets(st.sampled_from(NAMES)), st.integers(0, 2000), st.floats(0, 1), st.floats(0, 1))
def test_it_never_goes_on_over_too_many_failures_nor_without_enough_devices(
    found, online, began, failures, enough
):
    limits = Limits(failures, enough)
    decision = asked(found, online=online, began=began, now=2000.0, limits=limits)
    failed = [one for one in found.values() if one.stage == "rolled_back" and one.changed >= began]
    good = [one for one in found.values() if one.stage == "committed"]
    recent = [one for one in good if one.changed >= began]
    if isinstance(decision, Advance):
        assert good
        assert len(good) >= enough * sum(found[one].stage == "committed" for one in online & set(found))
        assert len(failed) < 2 or len(failed) <= failures * (len(failed) + len(recent))
        assert len(good) >= enough * len(online) - 1e-9
    if isinstance(decision, Stop):
        assert failed
    if len(failed) >= 2 and len(failed) > failures * (len(failed) + len(recent)):
        assert isinstance(decision, Stop)
    assert asked(found, online=online, began=began, now=2000.0, limits=limits) == decision


@given(FOUND, st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES))
def test_another_failure_never_turns_a_stop_into_going_on(found, online, name):
    if isinstance(asked(found, online=online), Stop):
        worse = {**found, name: Outcome("rolled_back", 100.0)}
        assert isinstance(asked(worse, online=online), Stop)

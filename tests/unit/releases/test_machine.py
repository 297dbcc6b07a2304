"""The machine of a release: whatever happens in whatever order, with a power cut anywhere."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.releases import machine as m
from marram.releases.machine import Deadlines, Machine
from marram.releases.state import State
from marram.releases.talk import Release

LIMITS = Deadlines(100.0, 10.0, 50.0)


def release(number: int) -> Release:
    return Release(f"m/{number}.marram", str(number), "marram", number, f"{number:064x}", 10)


def machine(state: State | None = None, configured: str = "c", agent: str = "1") -> Machine:
    return Machine(state or State(), LIMITS, agent, configured)


def saved(one: Machine) -> State:
    return msgspec.json.decode(msgspec.json.encode(one.state), type=State)


def through(one: Machine, number: int, now: float = 0.0) -> list[m.Action]:
    """All the way to inference."""
    actions: list[m.Action] = []
    for event in (
        m.Begun(release(number)), m.Fetched(release(number)), m.Preflighted(""), m.TrialBegun(),
        m.Trialled(""), m.Ran(""),
    ):  # fmt: skip
        actions += one.handle(event, now)
    return actions


def test_the_way_of_a_good_release() -> None:
    one = machine()
    actions = through(one, 1)
    kinds = [type(action) for action in actions if not isinstance(action, m.Tell)]
    assert kinds == [m.Preflight, m.Try, m.Run]
    assert one.running is not None
    assert one.running.release == release(1)
    assert (one.state.sequence, one.running.confirmed) == (1, False)
    one.handle(m.Confirmed(), 1.0)
    assert one.running.confirmed


@pytest.mark.parametrize("stage", ["verified", "trial"])
def test_a_refusal_is_for_good_under_this_agent_and_this_configuration(stage: str) -> None:
    one = machine()
    one.handle(m.Begun(release(1)), 0.0)
    one.handle(m.Fetched(release(1)), 0.0)
    if stage == "trial":
        one.handle(m.Preflighted(""), 0.0)
        one.handle(m.TrialBegun(), 0.0)
    refusal = m.Preflighted("bad") if stage == "verified" else m.Trialled("bad")
    assert m.Drop() in one.handle(refusal, 1.0)
    assert one.report()[0::2][:2] == ("rolled_back", "bad")
    assert one.refused == (release(1).sha256,)
    assert machine(saved(one), configured="another").refused == ()
    assert machine(saved(one), agent="2").refused == ()
    one.handle(m.Retry(), 2.0)
    assert one.refused == ()


def test_of_a_form_that_is_refused_in_the_trial_the_other_is_tried() -> None:
    one = machine()
    for event in (m.Begun(release(1)), m.Fetched(release(1)), m.Preflighted(""), m.TrialBegun()):
        one.handle(event, 0.0)
    actions = one.handle(m.Trialled("bad", another=True), 1.0)
    assert [type(action) for action in actions] == [m.Tell, m.Preflight]
    assert (one.report()[0], one.refused) == ("verified", ())
    again = machine(saved(one))  # a power cut
    assert m.Preflight in [type(action) for action in again.handle(m.Started(), 2.0)]


def test_a_candidate_is_never_put_where_the_committed_release_stands() -> None:
    one = machine()
    for number in (1, 2, 3):
        through(one, number)
        assert one.running is not None
        assert one.free_slot != one.running.slot
        one.handle(m.Confirmed(), 0.0)
    previous = one.state.previous
    assert previous is not None
    assert previous.release == release(2)


def test_another_bundle_in_the_yaml_goes_before_an_older_release() -> None:
    one = machine()
    through(one, 1)
    other = machine(saved(one), configured="another")
    assert other.running is None
    assert other.state.sequence == 1


def test_a_damaged_file_may_be_fetched_again_and_a_bad_release_not() -> None:
    one, other = machine(), machine()
    through(one, 1)
    through(other, 1)
    (back, _) = one.handle(m.Damaged("bits"), 1.0)
    assert back == m.Return(None, "bits")
    assert (one.refused, one.state.sequence) == ((), 0)
    other.handle(m.Misbehaved("no"), 1.0)
    assert (other.refused, other.state.sequence) == ((release(1).sha256,), 1)


def test_what_is_withdrawn_goes_back_to_what_was_not() -> None:
    one = machine()
    through(one, 1)
    one.handle(m.Confirmed(), 0.0)
    through(one, 2)
    state = saved(one)
    (back, _) = one.handle(m.Withdrawn("revoked"), 1.0)
    assert isinstance(back, m.Return)
    assert back.to is not None
    assert back.to.release == release(1)
    both = machine(state)
    (back, _) = both.handle(m.Withdrawn("revoked", (release(1).sha256,)), 1.0)
    assert back == m.Return(None, "revoked")


def test_after_a_rollback_the_way_to_older_releases_opens_when_the_newest_is_revoked() -> None:
    one = machine()
    through(one, 3)
    one.handle(m.Misbehaved("no"), 1.0)
    assert (one.running, one.state.sequence, one.state.newest) == (None, 3, release(3).sha256)
    one.handle(m.Reopened(), 2.0)
    assert (one.state.sequence, one.state.newest) == (-1, "")
    through(one, 1)
    one.handle(m.Confirmed(), 3.0)
    through(one, 2)
    one.handle(m.Misbehaved("no"), 4.0)
    one.handle(m.Reopened(), 5.0)
    assert (one.state.sequence, one.state.newest) == (1, release(1).sha256)


@pytest.mark.parametrize("clean", [True, False])
def test_three_strikes_in_a_trial(clean: bool) -> None:
    one = machine()
    one.handle(m.Begun(release(1)), 0.0)
    one.handle(m.Fetched(release(1)), 0.0)
    for start in range(3):
        if clean:
            one.handle(m.Stopped(), 0.0)
        one = machine(saved(one))
        actions = one.handle(m.Started(), 0.0)
        refused = not clean and start == 2
        assert (m.Drop() in actions) == refused
        one.handle(m.Preflighted(""), 0.0)
        one.handle(m.TrialBegun(), 0.0)
    assert (one.state.candidate is None) == (not clean)


def test_what_was_not_done_in_time_is_given_up_and_may_come_again() -> None:
    one = machine()
    one.handle(m.Begun(release(1)), 0.0)
    assert one.allowed == LIMITS.fetching
    one.handle(m.Waits("no network"), 1.0)
    assert m.Drop() in one.handle(m.Late(), 2.0)
    assert "no network" in one.report()[2]
    assert one.refused == ()
    through(one, 1)
    assert one.running is not None


EVENTS = [
    lambda r, n: m.Begun(release(n)), lambda r, n: m.Fetched(release(n)), lambda r, n: m.Waits("w"),
    lambda r, n: m.Preflighted(r.choice(["", "", "bad"])), lambda r, n: m.TrialBegun(),
    lambda r, n: m.Trialled(r.choice(["", "", "bad"]), r.random() < 0.3),
    lambda r, n: m.Ran(r.choice(["", "", "bad"])),
    lambda r, n: m.Confirmed(), lambda r, n: m.Misbehaved("m"), lambda r, n: m.Damaged("d"),
    lambda r, n: m.Withdrawn("w", tuple(release(k).sha256 for k in range(3) if r.random() < 0.3)),
    lambda r, n: m.Late(), lambda r, n: m.Reopened(), lambda r, n: m.Retry(), lambda r, n: m.Stopped(),
]  # fmt: skip


def onwards(one: Machine, rng: random.Random) -> m.Event:
    """What leads to the next stage, so that all of them are met often."""
    candidate = one.state.candidate
    if candidate is None:
        return rng.choice([m.Begun(release(rng.randrange(4))), m.Confirmed()])
    events = {
        "fetching": m.Fetched(candidate.release), "verified": m.Preflighted(""),
        "preflighted": m.TrialBegun(), "trial": m.Ran(""),
    }  # fmt: skip
    return events[candidate.stage]


@given(st.integers(0, 10**9))
@settings(max_examples=300, deadline=None)
def test_whatever_happens_it_stays_sound(seed: int) -> None:
    """Events in any order, restarts anywhere: the rules that the rest relies on hold after each step."""
    rng = random.Random(seed)
    one, newest = machine(), 0
    for step in range(60):
        if rng.random() < 0.15:
            one = machine(saved(one))
            one.handle(m.Started(), float(step))
        before = one.state
        event = onwards(one, rng) if rng.random() < 0.5 else rng.choice(EVENTS)(rng, rng.randrange(4))
        if isinstance(event, m.Begun) and event.release.sequence <= one.state.sequence:
            continue  # the child that fetches refuses it
        actions = one.handle(event, float(step))
        state = one.state
        assert saved(one) == state
        slots = [at.slot for at in (state.committed, state.candidate) if at is not None and at.slot]
        assert len(set(slots)) == len(slots), seed
        ran = before.committed.release if before.committed is not None else None
        if state.committed is not None and state.committed.release != ran:
            committed = state.committed.release
            went_back = committed == (before.previous.release if before.previous else None)
            assert went_back or committed.sha256 == (
                before.candidate.release.sha256 if before.candidate else ""
            ), seed
        if state.committed is not None and not any(isinstance(action, m.Return) for action in actions):
            newest = max(newest, state.committed.release.sequence)
            assert state.sequence >= state.committed.release.sequence, seed
        for action in actions:
            if isinstance(action, m.Run):
                assert action.candidate.stage == "trial", seed
            if isinstance(action, m.Return):
                assert state.committed == action.to, seed
        stage = one.report()[0]
        assert (state.candidate is None) == (stage in ("idle", "committed", "rolled_back")), seed

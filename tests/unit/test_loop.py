"""The background thread: calls in order, members when they are due, and one that fails harms no other."""

import threading
import time

import pytest
from marram.errors import MarramError
from marram.loop import Loop

from tests.support.processes import eventually


class Member:
    def __init__(self, wake_at, does=lambda now: None):
        self.wake_at, self.does, self.woken = wake_at, does, []

    def wake(self, now):
        self.woken.append(now)
        self.does(now)


@pytest.fixture
def running():
    loops = []

    def start(*members, clock=time.time):
        loop = Loop(clock)
        for member in members:
            loop.add(member)
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        loops.append((loop, thread))
        return loop

    yield start
    for loop, thread in loops:
        loop.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_calls_are_made_in_their_order_with_the_time(running):
    loop, made = running(clock=lambda: 42.0), []
    for number in range(100):
        loop.post(lambda now, number=number: made.append((number, now)))
    eventually("all calls", lambda: len(made) == 100)
    assert made == [(number, 42.0) for number in range(100)]


def test_calls_that_were_posted_before_the_end_are_made():
    loop, made = Loop(time.time), []
    for number in range(10):
        loop.post(lambda now, number=number: made.append(number))
    loop.stop()
    loop.run()
    assert made == list(range(10))


def test_a_member_is_woken_when_it_is_due_and_not_before(running):
    now = [100.0]
    member = Member(200.0)
    loop = running(member, clock=lambda: now[0])
    seen = []
    loop.post(lambda _: seen.append(list(member.woken)))
    eventually("the call", lambda: seen)
    assert seen == [[]]
    now[0] = 200.0
    member.does = lambda _: setattr(member, "wake_at", None)
    loop.post(lambda _: None)
    eventually("woken", lambda: member.woken)
    assert member.woken == [200.0]


@pytest.mark.parametrize("error", [MarramError("known"), RuntimeError("unknown")])
def test_one_that_fails_does_not_keep_the_others_from_being_woken(running, caplog, error):
    def fail(now):
        raise error

    bad, good = Member(0.0, fail), Member(0.0)
    good.does = lambda now: setattr(good, "wake_at", now + 0.01)
    running(bad, good)
    eventually("the good one woken often", lambda: len(good.woken) >= 5)
    assert len(bad.woken) == 1
    assert str(error) in caplog.text


def test_a_call_that_fails_is_logged_and_the_next_one_is_made(running, caplog):
    loop, made = running(), []
    loop.post(lambda now: 1 / 0)
    loop.post(made.append)
    eventually("the next call", lambda: made)
    assert "division by zero" in caplog.text


def test_its_beat_goes_on_with_its_work(running):
    loop = running()
    before = loop.beat
    loop.post(lambda now: None)
    eventually("a beat", lambda: loop.beat > before)


def test_a_clock_that_is_set_back_does_not_make_anything_wait_for_the_old_time(running):
    now = [4e9]
    member, idle = Member(None), Member(None)
    member.does = lambda at: setattr(member, "wake_at", at + 10)
    loop = running(member, idle, clock=lambda: now[0])
    loop.post(lambda at: setattr(member, "wake_at", at))
    eventually("woken", lambda: member.woken)
    now[0] = 1000.0
    loop.post(lambda at: None)
    eventually("woken by the new time", lambda: member.woken[-1] == 1000.0)
    assert (member.wake_at, idle.woken) == (1010.0, [])

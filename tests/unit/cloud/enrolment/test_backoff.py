"""Guessing becomes slow, for whoever guesses and for nobody else."""

from hypothesis import given
from hypothesis import strategies as st
from marram_cloud.enrolment.backoff import FREE, LAST, Backoff


def failing(address, times, backoff=None):
    backoff = backoff or Backoff()
    for _ in range(times):
        backoff.failed(address, 0.0)
    return backoff


def test_a_few_failures_cost_nothing_and_then_each_more_doubles_the_wait():
    assert failing("10.0.0.1", FREE - 1).wait("10.0.0.1", 0.0) == 0
    waits = [failing("10.0.0.1", FREE + more).wait("10.0.0.1", 0.0) for more in range(5)]
    assert waits == [1, 2, 4, 8, 16]


@given(st.integers(0, 500))
def test_no_wait_is_longer_than_the_longest_and_it_passes(times):
    wait = failing("10.0.0.1", times).wait("10.0.0.1", 0.0)
    assert 0 <= wait <= LAST
    assert failing("10.0.0.1", times).wait("10.0.0.1", wait) == 0


def test_others_do_not_wait_and_a_good_token_ends_it():
    backoff = failing("10.0.0.1", 50)
    assert backoff.wait("10.0.0.2", 0.0) == 0
    backoff.succeeded("10.0.0.1")
    assert backoff.wait("10.0.0.1", 0.0) == 0


def test_addresses_of_one_ipv6_network_wait_together():
    backoff = failing("2001:db8::1", 50)
    assert backoff.wait("2001:db8::ffff", 0.0) > 0
    assert backoff.wait("2001:db8:0:1::1", 0.0) == 0


def test_what_is_long_past_is_forgotten():
    backoff = failing("10.0.0.1", 50)
    backoff.failed("10.0.0.1", 1e6)
    assert backoff.wait("10.0.0.1", 1e6) == 0


def test_memory_stays_bounded_under_a_flood_of_addresses():
    backoff = Backoff()
    for number in range(30_000):
        backoff.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(backoff._failures) <= 10_000

"""The bounded queue: live windows push out the oldest, a replay waits, and every window is accounted for."""

import threading

from hypothesis import given, settings
from hypothesis import strategies as st
from marram.inference.queue import WindowQueue

from tests.support.windows import numbered

PATIENCE = 20.0


def numbers(taken):
    return [] if taken is None else [int(start) for start in taken[0].start]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=30))
def test_live_windows_come_out_in_order_without_the_oldest_that_had_no_room(limit, steps):
    queue, waiting, put, out, dropped = WindowQueue(limit), [], 0, [], 0
    for is_put, count in steps:
        if is_put:
            queue.put(numbered(count, put), live=True)
            waiting += range(put, put + count)
            put += count
            dropped += max(0, len(waiting) - limit)
            waiting = waiting[-limit:]
        else:
            taken = queue.take(count, timeout=0)
            assert numbers(taken) == waiting[:count]
            if taken is not None:
                assert taken[1].shape == (len(taken[0]),)
            out += waiting[:count]
            waiting = waiting[count:]
        assert len(queue) == len(waiting) <= limit
        assert (queue.received, queue.dropped) == (put, dropped)
    assert queue.received == len(out) + len(waiting) + queue.dropped


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 10), st.integers(1, 15))
def test_a_replay_waits_for_room_and_loses_nothing(blocks, limit, most):
    queue, longest, got = WindowQueue(limit), [], []

    def replay():
        first = 0
        for count in blocks:
            queue.put(numbered(count, first), live=False)
            first += count
        queue.close()

    thread = threading.Thread(target=replay)
    thread.start()
    while (taken := queue.take(most, timeout=PATIENCE)) is not None:
        longest.append(len(queue))
        got += numbers(taken)
    thread.join(PATIENCE)
    assert got == list(range(sum(blocks)))
    assert max(longest) <= limit
    assert queue.dropped == 0


def test_an_empty_queue_gives_nothing_after_the_timeout():
    assert WindowQueue(3).take(1, timeout=0.01) is None


def test_a_closed_queue_gives_what_is_in_it_and_lets_no_one_wait():
    queue = WindowQueue(2)
    queue.put(numbered(2), live=False)
    waiting = threading.Thread(target=queue.put, args=(numbered(3, 2), False))
    waiting.start()
    queue.close()
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    assert queue.closed
    assert numbers(queue.take(10)) == [0, 1, 2, 3, 4]
    assert queue.take(10) is None

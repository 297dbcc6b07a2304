"""Blocks over a link that loses, repeats, reorders and invents: the file comes whole, and nothing twice."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from marram.releases.blocks import BlockFetch, Deliver, Finished, Send
from marram.wire.messages import Block, Fetch
from marram_cloud.releases.online.blocks import runs


def answers(content: bytes, fetch: Fetch) -> list[Block]:
    return [
        Block(fetch.id, len(content), offset, content[offset : offset + length])
        for offset, length in runs(fetch, len(content), fetch.limit)
    ]


@given(
    seed=st.integers(0, 10**6), size=st.integers(0, 400_000),
    limit=st.sampled_from([256, 1000, 4096, 98_000]), loss=st.floats(0, 0.6), known=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_file_comes_whole_over_a_bad_link(
    seed: int, size: int, limit: int, loss: float, known: bool
) -> None:
    rng = random.Random(seed)
    content = rng.randbytes(size)
    ranges = [(0, size)] if size else []
    fetch = BlockFetch("f", ranges if known and size else None, size, size, limit, 7)
    now, got, delivered = 0.0, bytearray(size), [0] * size
    underway: list[Block] = []
    actions = fetch.start(now)
    finished = None
    for _ in range(100_000):
        for action in actions:
            match action:
                case Send():
                    assert all(len(block.data) <= limit for block in answers(content, action.fetch))
                    for block in answers(content, action.fetch) or [Block(action.fetch.id, size, 0, b"")]:
                        underway += [block] * (rng.random() >= loss) + [block] * (rng.random() < 0.2)
                case Deliver():
                    got[action.offset : action.offset + len(action.data)] = action.data
                    for at in range(action.offset, action.offset + len(action.data)):
                        delivered[at] += 1
                case Finished():
                    finished = action
        if finished:
            break
        if underway:
            block = underway.pop(rng.randrange(len(underway)))
            actions = fetch.arrived(block, now)
        elif rng.random() < 0.1:
            actions = fetch.connected(limit, now)
        else:
            now = fetch.wake_at or now
            actions = fetch.wake(now)
    assert finished == Finished(), (seed, finished)
    assert bytes(got) == content
    assert set(delivered) <= {1}


@given(st.lists(st.tuples(st.integers(0, 90_000), st.integers(1, 5000)), min_size=1, max_size=20))
def test_only_blocks_of_the_wanted_ranges_are_asked_for(ranges: list[tuple[int, int]]) -> None:
    size = 100_000
    fetch = BlockFetch("f", ranges, size, size, 4096, 0)
    wanted = {
        number
        for offset, length in ranges
        for number in range(offset // 4096, (offset + length - 1) // 4096 + 1)
    }
    actions, asked = fetch.start(0.0), set()
    while not any(isinstance(action, Finished) for action in actions):
        (send,) = [action for action in actions if isinstance(action, Send)]
        found = answers(bytes(size), send.fetch)
        asked |= {block.offset // 4096 for block in found}
        for block in found:
            actions = fetch.arrived(block, 0.0)
    assert asked == wanted


def started(most: int = 10_000) -> BlockFetch:
    fetch = BlockFetch("f", None, 0, most, 4096, 5)
    fetch.start(0.0)
    return fetch


def test_a_missing_file_ends_it() -> None:
    assert started().arrived(Block(5, 0, 0, b"", missing=True), 1.0) == [Finished(missing=True)]


def test_endless_data_is_not_taken() -> None:
    (end,) = started().arrived(Block(5, 10_001, 0, bytes(4096)), 1.0)
    assert isinstance(end, Finished)
    assert "at most 10000" in end.error


def test_answers_that_do_not_fit_change_nothing() -> None:
    fetch = started()
    fetch.arrived(Block(5, 9000, 0, bytes(4096)), 1.0)
    before = fetch.wake_at
    for bad in (
        Block(4, 9000, 4096, bytes(4096)),  # of another request
        Block(5, 9000, 4097, bytes(4096)),  # not at a block
        Block(5, 9000, 4096, bytes(4095)),  # not a whole block
        Block(5, 9001, 4096, bytes(4096)),  # of another size
        Block(5, 9000, 8192, bytes(4096)),  # beyond the end
        Block(5, 9000, 0, bytes(4096)),  # there already
        Block(5, 0, 0, b"", missing=True),  # it was there a moment ago
    ):
        assert fetch.arrived(bad, 3.0) == []
    assert fetch.wake_at == before


def test_silence_is_asked_about_less_and_less_often_and_given_up() -> None:
    fetch, now, pauses = started(), 0.0, []
    while True:
        at = fetch.wake_at
        assert at is not None
        pauses.append(at - now)
        now = at
        actions = fetch.wake(now)
        if isinstance(actions[0], Finished):
            assert "nothing came" in actions[0].error
            break
    assert pauses == sorted(pauses)
    assert now <= 700

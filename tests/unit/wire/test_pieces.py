import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.errors import WireError
from marram.wire import pieces


def random_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def slowly_rolled(data: bytes) -> list[int]:
    gear = pieces._GEAR.tolist()
    return [
        sum(gear[data[at - k]] << k for k in range(min(32, at + 1))) & 0xFFFFFFFF for at in range(len(data))
    ]


@given(st.integers(0, 1000), st.integers(0, 3000))
@settings(max_examples=20, deadline=None)
def test_the_hash_is_the_sum_over_the_last_32_bytes(seed: int, size: int) -> None:
    import numpy as np

    data = random_bytes(seed, size)
    assert pieces._roll(np.frombuffer(data, np.uint8)).tolist() == slowly_rolled(data)


@given(st.integers(0, 1000), st.integers(0, 200_000), st.booleans())
@settings(max_examples=30, deadline=None)
def test_pieces_are_the_whole_file_and_bounded(seed: int, size: int, flat: bool) -> None:
    data = bytes(size) if flat else random_bytes(seed, size)
    found = list(pieces.cut(data))
    assert b"".join(data[offset : offset + length] for offset, length in found) == data
    assert all(length <= 1 << 14 for _, length in found)
    assert all(length >= 1 << 10 for _, length in found[:-1])
    index = pieces.read_index(pieces.index(data), size)
    assert [pieces.short(data[offset : offset + length]) for offset, length in found] == list(index.digests)


@given(st.integers(0, 1000), st.integers(0, 300_000), st.integers(1, 500))
@settings(max_examples=20, deadline=None)
def test_bytes_put_in_change_few_pieces(seed: int, at: int, inserted: int) -> None:
    old = random_bytes(seed, 300_000)
    new = old[:at] + random_bytes(seed + 1, inserted) + old[at:]
    before = set(pieces.read_index(pieces.index(old), len(old)).digests)
    after = pieces.read_index(pieces.index(new), len(new)).digests
    assert sum(digest not in before for digest in after) <= 6


def test_blocks_in_which_a_large_file_is_read_are_not_seen() -> None:
    data = random_bytes(5, (1 << 21) + 777)
    around = (1 << 20) - 40_000
    cut = {offset + length for offset, length in pieces.cut(data)}
    part = {around + offset + length for offset, length in pieces.cut(data[around:])}
    # After the first common boundary both cut alike, also where a block ends.
    common = sorted(cut & part)
    assert common[0] < 1 << 20
    assert [b for b in sorted(cut) if b >= common[0]] == [b for b in sorted(part) if b >= common[0]]


@pytest.mark.parametrize("bad", [b"", b"x", b"\x92\x90", pieces.index(b"abc")])
def test_what_is_no_index_of_the_file_is_refused(bad: bytes) -> None:
    with pytest.raises(WireError):
        pieces.read_index(bad, 4)

"""Chunks: any order, duplicates and gaps; hostile frames only ever refused; memory bounded."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.errors import WireError
from marram.wire import cbor, chunks, reasons
from marram.wire.chunks import Assembler, split, transfer_of


@given(st.binary(max_size=2000), st.integers(50, 400), st.randoms())
def test_any_order_with_duplicates(message, limit, shuffle):
    frames = split(message, limit)
    assert all(len(frame) <= limit for frame in frames)
    assembler = Assembler(2000, 1)
    sent = frames[:-1] * 2
    shuffle.shuffle(sent)
    assert all(assembler.add(frame) is None for frame in sent)
    if len(frames) > 1:
        assert assembler.missing(transfer_of(message)) == [len(frames) - 1]
    assert assembler.add(frames[-1]) == message
    assert assembler.pending() == []


@pytest.mark.parametrize("size", [0, 1, chunks.DEFAULT_LIMIT, 1_000_003])
def test_sizes_at_the_default_limit(size):
    message = random.Random(size).randbytes(size)
    frames = split(message)
    assert max(map(len, frames)) <= chunks.DEFAULT_LIMIT
    assembler = Assembler(max(1, size), 4)
    assert [assembler.add(frame) for frame in frames][-1] == message


def test_several_transfers_at_once_and_the_oldest_is_dropped():
    messages = [bytes([letter]) * 300 for letter in b"abc"]
    frames = [split(message, 100) for message in messages]
    assembler = Assembler(1000, 2)
    for each in frames:
        for frame in each[1:]:
            assembler.add(frame)
    assert assembler.pending() == [transfer_of(message) for message in messages[1:]]
    assert assembler.missing(transfer_of(messages[1])) == [0]
    assert assembler.add(frames[2][0]) == messages[2]
    assert assembler.add(frames[1][0]) == messages[1]
    with pytest.raises(KeyError):
        assembler.missing(transfer_of(messages[0]))


def test_a_message_that_is_sent_again_is_given_again():
    frames = split(b"m" * 300, 100)
    assembler = Assembler(300, 2)
    for _ in range(2):
        assert [assembler.add(frame) for frame in frames][-1] == b"m" * 300


def test_drop():
    frames = split(b"m" * 300, 100)
    assembler = Assembler(300, 2)
    assembler.add(frames[0])
    assembler.drop(transfer_of(b"m" * 300))
    assembler.drop(b"never seen")
    assert assembler.pending() == []


def frame(transfer=b"t" * 16, index=0, count=2, size=10, data=b"12345"):
    return cbor.encode([transfer, index, count, size, data])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame(size=1001), reasons.TOO_LARGE),
        (frame(transfer=b"short"), reasons.MALFORMED),
        (frame(transfer="t" * 16), reasons.MALFORMED),
        (frame(index=2), reasons.MALFORMED),
        (frame(index=-1), reasons.MALFORMED),
        (frame(index=True), reasons.MALFORMED),
        (frame(count=0), reasons.MALFORMED),
        (frame(count=11), reasons.MALFORMED),
        (frame(size=-1), reasons.MALFORMED),
        (frame(data=b""), reasons.MALFORMED),
        (frame(data=b"x" * 11), reasons.MALFORMED),
        (frame(data=[b"x"]), reasons.MALFORMED),
        (frame() + b"\x00", reasons.MALFORMED),
        (cbor.encode([1, 2, 3]), reasons.MALFORMED),
        (cbor.encode({}), reasons.MALFORMED),
        (b"", reasons.MALFORMED),
    ],
)
def test_hostile_frames_are_refused_and_leave_nothing(data, reason):
    assembler = Assembler(1000, 2)
    with pytest.raises(WireError) as caught:
        assembler.add(data)
    assert caught.value.reason == reason
    assert assembler.pending() == []


@pytest.mark.parametrize(
    "second",
    [frame(index=1, count=3), frame(index=1, size=11), frame(data=b"54321"), frame(index=1, data=b"678901")],
)
def test_a_frame_that_contradicts_an_earlier_one_is_refused_and_does_not_block_the_message(second):
    message = b"1234567890"
    transfer = hashlib.sha256(message).digest()[:16]
    assembler = Assembler(1000, 2)

    def owned(data):
        return cbor.encode([transfer, *cbor.decode(data)[1:]])

    assembler.add(owned(frame()))
    with pytest.raises(WireError):
        assembler.add(owned(second))
    assert assembler.pending() == []
    assembler.add(owned(frame()))
    assert assembler.add(owned(frame(index=1, data=b"67890"))) == message


def test_a_wrong_hash_is_refused_and_forgotten():
    assembler = Assembler(1000, 2)
    assembler.add(frame())
    with pytest.raises(WireError, match="not the message"):
        assembler.add(frame(index=1))
    assert assembler.pending() == []


@settings(max_examples=200)
@given(st.binary(max_size=100))
def test_random_bytes_are_only_ever_refused(data):
    with pytest.raises(WireError):
        Assembler(1000, 2).add(data)


def test_limits_that_make_no_sense():
    with pytest.raises(ValueError, match="frames"):
        split(b"message", 42)
    with pytest.raises(ValueError, match="frames"):
        split(b"m" * 70_000, 43)
    with pytest.raises(ValueError, match="room"):
        Assembler(0, 1)

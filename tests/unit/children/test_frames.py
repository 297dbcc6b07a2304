"""Frames of a child that a hostile file may have taken over: read, or refused in one way."""

from __future__ import annotations

import io

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.children.frames import FrameError, read_frame, write_frame
from marram.releases.talk import TOLD, Outcome

OUTCOME = Outcome(error="no network", revoked=("a" * 64,))


def framed(content: bytes) -> io.BytesIO:
    return io.BytesIO(len(content).to_bytes(4, "big") + content)


def test_what_was_written_is_read_and_then_the_end() -> None:
    stream = io.BytesIO()
    write_frame(stream, OUTCOME)
    stream.seek(0)
    assert read_frame(stream, TOLD) == OUTCOME
    assert read_frame(stream, TOLD) is None


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 10**6), put=st.binary(min_size=1, max_size=8))
def test_a_spoilt_frame_is_refused_or_read(place: int, put: bytes) -> None:
    content = msgspec.msgpack.encode(OUTCOME)
    place %= len(content)
    try:
        found = read_frame(framed(content[:place] + put + content[place + len(put) :]), TOLD)
    except FrameError:
        return
    assert found is not None


@pytest.mark.parametrize(
    "content",
    [b"\x82\xa4type\xa7Outcome\xa5error" + b"\x91" * 100_000, b"\x82\xa4type\xa7Outcome\xa5error\xa1\xff"],
    ids=["nested", "no text"],
)
def test_what_decoders_choke_on_is_a_frame_error(content: bytes) -> None:
    with pytest.raises(FrameError, match="cannot be read"):
        read_frame(framed(content), TOLD)


def test_a_frame_that_is_cut_short_or_too_large_is_refused() -> None:
    for stream in (io.BytesIO(b"\0\0"), io.BytesIO(b"\0\0\0\x05abc"), io.BytesIO(b"\xff" * 8)):
        with pytest.raises(FrameError, match="cut short"):
            read_frame(stream, TOLD)

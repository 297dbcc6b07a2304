"""What a device remembers of its releases is on a card that may go bad: the daemon starts all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.releases.state import Last, State, load, save

STATE = State(last=Last("committed", "shoulder/1.marram", "it works", 5.0), sequence=4, floor=9.0)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "state.json", STATE)
    assert load(tmp_path / "state.json") == STATE
    assert load(tmp_path / "none.json") == State()


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10**6), put=st.binary(min_size=1, max_size=40))
def test_a_damaged_state_is_put_aside_or_read(
    tmp_path_factory: pytest.TempPathFactory, place: int, put: bytes
) -> None:
    path = tmp_path_factory.mktemp("state") / "state.json"
    save(path, STATE)
    content = path.read_bytes()
    place %= len(content)
    spoilt = content[:place] + put + content[place + len(put) :]
    path.write_bytes(spoilt)
    if load(path) == State():
        assert path.with_name("state.json.damaged").read_bytes() == spoilt


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"last": {"reason": "\xff"}}', b"null"])
def test_what_is_no_state_is_put_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    assert load(path) == State()
    assert path.with_name("state.json.damaged").read_bytes() == content

"""What a device's retained state says: whether it is there, and whether it takes part in rounds."""

from __future__ import annotations

import msgspec

MAX_STATE = 4096


class State(msgspec.Struct, frozen=True):
    """learning: whether it takes part in rounds; one that only runs releases is not waited for."""

    online: bool = False
    learning: bool = True


def read_state(payload: bytes) -> State:
    """A state that cannot be read counts as offline."""
    if not payload or len(payload) > MAX_STATE:
        return State()
    try:
        return msgspec.json.decode(payload, type=State)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return State()

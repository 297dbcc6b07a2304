"""What a device remembers of its releases: one file, replaced as a whole at each step (``state.json``)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from marram.errors import StorageError
from marram.releases.talk import Release, Timekeepers
from marram.storage import replace_file

Slot = Literal["a", "b"]
Under = Literal["fetching", "verified", "preflighted", "trial"]
Stage = Literal["idle", "fetching", "verified", "preflighted", "trial", "committed", "rolled_back"]

log = logging.getLogger(__name__)


class Installed(msgspec.Struct, frozen=True):
    """A release in a slot, that inference runs or ran.

    configured: digest of the YAML's bundle when it was committed; another one there goes before it.
    confirmed: it has shown in the daemon that it works. starts: of the daemon that ended badly before that.
    """

    release: Release
    slot: Slot
    configured: str
    confirmed: bool = False
    starts: int = 0


class Candidate(msgspec.Struct, frozen=True):
    """A release on its way. since: when its stage began, Unix seconds.

    strikes: how often the daemon or the machine went down while it was tried. waits: what it waits for.
    """

    release: Release
    stage: Under
    since: float
    slot: Slot | None = None
    strikes: int = 0
    waits: str = ""


class Refused(msgspec.Struct, frozen=True):
    """A file that this device will not try again, unless the agent or the YAML's bundle is another one."""

    sha256: str
    target: str
    reason: str
    agent: str
    configured: str


class Last(msgspec.Struct, frozen=True):
    """How the last release ended here."""

    stage: Literal["idle", "committed", "rolled_back"] = "idle"
    target: str = ""
    reason: str = ""
    since: float = 0.0


class State(msgspec.Struct, frozen=True):
    """All of it. sequence, newest: number and sha256 of the newest release that was ever committed and not
    revoked since. clean: the daemon was stopped well.

    floor: Unix seconds that have surely passed, from timestamps; timekeepers: who signed these.
    counter: of the last report.
    """

    committed: Installed | None = None
    previous: Installed | None = None
    candidate: Candidate | None = None
    refused: Annotated[tuple[Refused, ...], msgspec.Meta(max_length=64)] = ()
    last: Last = Last()
    sequence: int = -1
    newest: str = ""
    clean: bool = True
    floor: float = 0.0
    timekeepers: Timekeepers = Timekeepers()
    counter: int = 0


def load(path: Path) -> State:
    """The state; a new one where there is none. A file that cannot be read is put aside and said."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return State()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        log.error("%s is damaged (%s) and put aside as %s; the configured bundle runs", path, error, aside)
        try:
            path.replace(aside)
        except OSError as failure:
            raise StorageError(
                f"{path}: is damaged, and cannot be put aside: {failure.strerror}"
            ) from failure
        return State()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def peek(path: Path) -> State | None:
    """The state as it stands there, for who only looks; None when there is none or it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def save(path: Path, state: State) -> None:
    """Raises StorageError."""
    replace_file(path, msgspec.json.encode(state))

"""Is the clock set, kept right by the network, and not behind what has surely passed?"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import suppress

from marram import RELEASED
from marram.doctor.finding import Finding, error, ok, warning
from marram.doctor.machine import Machine
from marram.errors import MarramError

_TIME_ERROR = 5  # adjtimex(2): the kernel's clock is not synchronised
_AHEAD = 20 * 365 * 86400.0
_SET = "set it (`date -s`, `timedatectl set-time`), or give it a time server (systemd-timesyncd, chrony)"


def check(machine: Machine) -> Iterator[Finding]:
    floor, of = _floor(machine)
    now = machine.now
    if now < floor:
        yield error("clock", f"says {_day(now)}, but {of} is of {_day(floor)}", _SET)
    elif now > RELEASED + _AHEAD:
        yield error("clock", f"says {_day(now)}, years ahead of this version", _SET)
    else:
        yield ok("clock", f"says {_day(now)}")
    synchronised = _synchronised()
    if synchronised is False:
        yield warning(
            "synchronisation",
            "nothing keeps the clock right: the kernel says that it is not synchronised",
            "`timedatectl` shows whether a time server is asked; without one it drifts by seconds a day",
        )
    elif synchronised:
        yield ok("synchronisation", "the kernel says that the clock is synchronised")


def _floor(machine: Machine) -> tuple[float, str]:
    """The newest time that has surely passed, and what says so."""
    floors = [(RELEASED, "this version of Marram")]
    if machine.config is not None:
        from marram.releases import state as states

        if machine.config.cloud is not None:
            from marram.link.identity import load

            with suppress(MarramError):
                identity = load(machine.config.cloud.identity, key=machine.config.cloud.key)
                floors.append((identity.floor, "the device's own certificate"))
        state = states.peek(machine.state / "releases" / "state.json")
        if state is not None:
            floors.append((state.floor, "the newest signed word of the release repository"))
    return max(floors)


def _synchronised() -> bool | None:
    """What the kernel says; None where it may not be asked."""
    try:
        answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else answer != _TIME_ERROR


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))

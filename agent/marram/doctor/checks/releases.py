"""Which release runs, what was refused, and do updates go on?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from marram.doctor.finding import Finding, error, note, ok, warning
from marram.doctor.machine import Machine
from marram.releases import state as states
from marram.releases.hold import Hold

_MISSED = 3 * 86400.0


def check(machine: Machine) -> Iterator[Finding]:
    folder = machine.state / "releases"
    state = states.peek(folder / "state.json")
    if state is None:
        if (folder / "state.json").exists():
            yield warning(
                "state", f"{folder / 'state.json'} cannot be read", "the agent begins it anew at its start"
            )
        return
    one = state.committed
    if one is None:
        yield ok("release", "the configured bundle; no release was installed")
    else:
        path = folder / one.slot
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != one.release.sha256:
            yield error(
                "release",
                f"{path} is not the file that was signed as {one.release.target}",
                "what ran before runs; it is fetched again by itself. Look for a bad card",
            )
        else:
            yield ok("release", f"{one.release.target}" + ("" if one.confirmed else ", not confirmed yet"))
    if state.candidate is not None:
        waits = f": {state.candidate.waits}" if state.candidate.waits else ""
        yield ok("candidate", f"{state.candidate.release.target} is {state.candidate.stage}{waits}")
    for refused in state.refused:
        yield note(
            "refused",
            f"{refused.target}: {refused.reason}",
            "`marram updates retry`, if it is to be tried again",
        )
    held = Hold(folder / "hold").reason()
    if held is not None:
        yield note("held", f"no release takes over: {held}", "`marram updates resume`")
    release = (machine.status or {}).get("release", {})
    if release.get("problem"):
        yield warning(
            "repository",
            release["problem"],
            "see the broker below, or releases.url; it is asked again by itself",
        )
    checked = release.get("checked")
    if checked and machine.now - checked > _MISSED:
        days = (machine.now - checked) / 86400
        yield warning(
            "repository", f"was last seen {days:.1f} days ago", "see the broker below, or releases.url"
        )

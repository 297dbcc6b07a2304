"""What a staged roll-out should do next, by what devices report: wait, go on, or stop. Pure.

It stops by itself when too many of the devices that finished had to go back. It goes on by itself only where
the operator gave it further stages.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from marram.wire.messages import Stage
from marram.wire.rollout import Plan

from marram_cloud.releases.rollout.document import Schedule

_MOST_REASONS = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """failures: part of the finished devices that may have gone back. enough: part of a stage's devices that
    are online which must run the release before the next stage."""

    failures: float = 0.1
    enough: float = 0.9


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far one device is with one release. changed: when the cloud heard of this stage first, Unix s."""

    stage: Stage
    changed: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done. text: what is waited for. until: Unix s, where only time has to pass."""

    text: str
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class Stop:
    """Pause the roll-out."""

    reason: str


@dataclass(frozen=True, slots=True)
class Advance:
    """Begin the next stage."""


Decision = Wait | Stop | Advance


def decide(
    plan: Plan,
    schedule: Schedule,
    online: Collection[str],
    outcomes: Mapping[str, Outcome],
    limits: Limits,
    now: float,
) -> Decision:
    """online: names of devices. outcomes: of this release, by device.

    Which groups a device is in only the device knows: one of a group counts from its first report on.
    """
    if plan.paused:
        return Wait("paused")
    began = schedule.began / 1000
    committed = {name: one for name, one in outcomes.items() if one.stage == "committed"}
    failed = {name: one for name, one in outcomes.items() if one.stage == "rolled_back"}
    members = {name for name in online if name in outcomes or plan.includes(name, ())} | set(committed)
    reason = _too_many_failures(began, committed, failed, members, limits)
    if reason:
        return Stop(reason)
    if not schedule.then:
        return Wait("no further stage is planned")
    needed = max(1, math.ceil(limits.enough * len(members)))
    if len(committed) < needed:
        return Wait(f"{len(committed)} of {needed} devices run it")
    last = max(began, sorted(one.changed for one in committed.values())[needed - 1])
    if now < last + schedule.soak:
        return Wait(f"soaks for another {last + schedule.soak - now:.0f} s", last + schedule.soak)
    return Advance()


def _too_many_failures(
    began: float,
    committed: Mapping[str, Outcome],
    failed: Mapping[str, Outcome],
    members: Collection[str],
    limits: Limits,
) -> str:
    """Why to stop, or "". Counted since the stage began; one failure alone stops only a stage in which
    nothing else is to come: nobody runs the release and no device that is online is still at it."""
    bad = [one for one in failed.values() if one.changed >= began]
    good = sum(one.changed >= began for one in committed.values())
    if not bad:
        return ""
    hopeless = not committed and set(members) <= set(failed)
    too_many = len(bad) >= 2 and len(bad) > limits.failures * (len(bad) + good)
    if not hopeless and not too_many:
        return ""
    reasons = Counter(one.reason or "no reason given" for one in bad).most_common(_MOST_REASONS)
    said = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    return f"{len(bad)} of {len(bad) + good} devices that finished went back: {said}"

"""A model's roll-out as the cloud keeps it: the document that devices read, and what is to come next.

Both are signed together: the document is the target ``rollout/<model>.json`` and the schedules are that
target's ``custom``, so that no crash can part them. Pure: every change gives a new document.
"""

from __future__ import annotations

import math

import msgspec
from marram.wire.rollout import Plan, Rollout

from marram_cloud.releases.repository.targets import Release
from marram_cloud.releases.rollout.audience import Audience, RolloutError

_KEPT = 16


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one release. began: when its stage began or was resumed, Unix ms. then: audiences of later stages.

    soak: seconds between enough devices that run it and the next stage. paused: why it is.

    Integers, because signed JSON has no others.
    """

    began: int
    then: tuple[str, ...] = ()
    soak: int = 0
    paused: str = ""


class Document(msgspec.Struct, frozen=True):
    """rollout: what devices read. schedules: by target path."""

    rollout: Rollout
    schedules: dict[str, Schedule] = {}

    @staticmethod
    def empty(model: str) -> Document:
        return Document(Rollout(model))

    def plan(self, target: str) -> Plan | None:
        return next((plan for plan in self.rollout.plans if plan.target == target), None)

    def promoted(
        self, release: Release, audience: Audience, now: float, *, then: tuple[str, ...] = (),
        soak: int = 0, narrow: bool = False,
    ) -> Document:  # fmt: skip
        """More devices run a release; it goes on if it was paused. Raises RolloutError.

        A release that is new here goes before all others. narrow: the audience takes the place of what was.
        """
        if release.sha256 in self.rollout.revoked:
            raise RolloutError(f"{release.path} was revoked; release the same content as another version")
        _check_stages(audience, then)
        old = self.plan(release.path)
        if old is None:
            fresh = Plan(release.path, release.sha256, salt=release.sha256[:16])
            plan, rest = _widened(fresh, audience), self.rollout.plans
            plans = (plan, *rest)[:_KEPT]
        else:
            if narrow:
                cleared = msgspec.structs.replace(old, share=0.0, groups=(), devices=())
                plan = _widened(cleared, audience)
            elif audience.share and audience.share < old.share:
                raise RolloutError(
                    f"{release.path} is at {old.share * 100:g}% already; with --narrow it goes back to fewer"
                )
            else:
                plan = _widened(old, audience)
            plan = msgspec.structs.replace(plan, paused=False)
            plans = tuple(plan if one is old else one for one in self.rollout.plans)
        return self._with(plans, {release.path: Schedule(_milliseconds(now), then, soak)})

    def paused(self, target: str, reason: str) -> Document:
        """No further device begins. Raises RolloutError when the release is not being rolled out."""
        return self._pause(target, True, paused=reason)

    def resumed(self, target: str, now: float) -> Document:
        """Go on; failures from before count no more."""
        return self._pause(target, False, paused="", began=_milliseconds(now))

    def advanced(self, target: str, now: float) -> Document:
        """The next stage of the schedule."""
        plan, schedule = self._known(target), self.schedules[target]
        wider = _widened(plan, Audience.parse(schedule.then[0]))
        plans = tuple(wider if one is plan else one for one in self.rollout.plans)
        return self._with(
            plans,
            {target: msgspec.structs.replace(schedule, began=_milliseconds(now), then=schedule.then[1:])},
        )

    def revoked(self, sha256: str) -> Document:
        """No device may run this file any more."""
        if sha256 in self.rollout.revoked:
            return self
        rollout = msgspec.structs.replace(self.rollout, revoked=(*self.rollout.revoked, sha256))
        return msgspec.structs.replace(self, rollout=rollout)

    def _known(self, target: str) -> Plan:
        plan = self.plan(target)
        if plan is None:
            raise RolloutError(f"{target} is not being rolled out; `release promote` begins that")
        return plan

    def _pause(self, target: str, pause: bool, **changes: object) -> Document:
        plan = self._known(target)
        plans = tuple(
            msgspec.structs.replace(one, paused=pause) if one is plan else one for one in self.rollout.plans
        )
        schedule = self.schedules.get(target, Schedule(0))
        return self._with(plans, {target: msgspec.structs.replace(schedule, **changes)})

    def _with(self, plans: tuple[Plan, ...], schedules: dict[str, Schedule]) -> Document:
        merged = {**self.schedules, **schedules}
        kept = {plan.target: merged[plan.target] for plan in plans if plan.target in merged}
        return Document(msgspec.structs.replace(self.rollout, plans=plans), kept)


def _milliseconds(now: float) -> int:
    return math.ceil(now * 1000)


def _widened(plan: Plan, audience: Audience) -> Plan:
    return msgspec.structs.replace(
        plan,
        share=max(plan.share, audience.share),
        groups=_with(plan.groups, audience.group),
        devices=_with(plan.devices, audience.device),
    )


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return names if not name or name in names else (*names, name)


def _check_stages(first: Audience, then: tuple[str, ...]) -> None:
    share = first.share
    for text in then:
        audience = Audience.parse(text)
        if audience.share and audience.share <= share:
            raise RolloutError(f"stage {text!r} is not larger than the one before it")
        share = max(share, audience.share)

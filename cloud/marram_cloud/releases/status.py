"""What ``marram-cloud release status`` shows: what is published and staged, who runs what and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime

import msgspec
from marram.wire.messages import Stage
from tuf.api.metadata import Signed

from marram_cloud.releases.online.reports import Heard, Reports
from marram_cloud.releases.repository.keys import name
from marram_cloud.releases.repository.layout import ROOT, SNAPSHOT, TIMESTAMP, Layout, State
from marram_cloud.releases.repository.publication import decide, staged_signatures
from marram_cloud.releases.repository.targets import Release, releases
from marram_cloud.releases.rollout.audience import describe
from marram_cloud.releases.rollout.document import Document
from marram_cloud.releases.rollout.store import read

_IN_PROGRESS: tuple[Stage, ...] = ("fetching", "verified", "preflighted", "trial")


class Role(msgspec.Struct, frozen=True):
    """expires: ISO 8601. expired: whether that is past."""

    role: str
    version: int
    expires: str
    expired: bool


class Staged(msgspec.Struct, frozen=True):
    """Metadata that is not published. missing: signatures, of ``keys`` that have not signed. waits: why it
    cannot be published now; "" when ``release publish`` would."""

    role: str
    version: int
    missing: int
    keys: tuple[str, ...]
    waits: str


class ReleaseStatus(msgspec.Struct, frozen=True):
    """One release. running: devices that run it by their last report. reasons: why devices went back."""

    target: str
    sequence: int
    sha256: str
    size: int
    audience: str
    paused: str | None
    revoked: bool
    then: tuple[str, ...]
    running: int
    committed: int
    in_progress: int
    rolled_back: int
    reasons: dict[str, int]


class Status(msgspec.Struct, frozen=True):
    """models: releases of each, newest first. not_heard: enrolled devices without any report."""

    roles: tuple[Role, ...]
    staged: tuple[Staged, ...]
    models: dict[str, tuple[ReleaseStatus, ...]]
    devices: dict[str, Heard]
    not_heard: tuple[str, ...]


def look(layout: Layout, reports: Reports | None, enrolled: Collection[str], now: datetime) -> Status:
    """Raises RepositoryError. reports: None where they are not at hand."""
    state = layout.load()
    heard = reports.heard() if reports is not None else {}
    return Status(
        roles=_roles(state, now),
        staged=_staged(layout, state),
        models={model: _model(layout, state, model, reports, heard) for model in state.models},
        devices=heard,
        not_heard=tuple(sorted(set(enrolled) - set(heard))),
    )


def as_text(status: Status) -> str:
    """For people."""
    lines = [_role_line(role) for role in status.roles]
    lines += [_staged_line(one) for one in status.staged]
    for model, found in status.models.items():
        lines.append(f"\n{model}" + ("" if found else ": no releases"))
        for release in found:
            lines += _release_lines(release)
    if status.not_heard:
        lines.append(
            f"\nno report yet of {len(status.not_heard)} devices: {', '.join(status.not_heard[:20])}"
        )
    return "\n".join(lines)


def progress(document: Document) -> str:
    """A roll-out after a change, for people."""
    lines = []
    for plan in document.rollout.plans:
        schedule = document.schedules[plan.target]
        revoked = plan.sha256 in document.rollout.revoked
        paused = schedule.paused if plan.paused else None
        lines.append(f"{plan.target}: {_state(revoked, describe(plan), schedule.then, paused)}")
    return "\n".join(lines) or f"{document.rollout.model}: nothing is being rolled out"


def _roles(state: State, now: datetime) -> tuple[Role, ...]:
    top: list[tuple[str, Signed]] = [(ROOT, state.root.signed)]
    top += [(role, metadata.signed) for role, metadata in sorted(state.roles.items())]
    top += [(SNAPSHOT, state.snapshot.signed), (TIMESTAMP, state.timestamp.signed)]
    return tuple(
        Role(role, signed.version, signed.expires.strftime("%Y-%m-%dT%H:%M:%SZ"), signed.expires <= now)
        for role, signed in top
    )


def _staged(layout: Layout, state: State) -> tuple[Staged, ...]:
    staged = layout.load_staged()
    publication = decide(state, staged)
    found = []
    for role, metadata in staged.items():
        if role not in publication.done:
            lacking = staged_signatures(state, staged, role)
            keys = tuple(sorted(name(key) for key in lacking.unsigned)) if lacking.missing else ()
            waits = publication.waiting.get(role, "")
            found.append(Staged(role, metadata.signed.version, lacking.missing, keys, waits))
    return tuple(found)


def _model(
    layout: Layout, state: State, model: str, reports: Reports | None, heard: dict[str, Heard]
) -> tuple[ReleaseStatus, ...]:
    document = read(layout, state, model)
    running = Counter(one.report.running for one in heard.values() if one.report.running)
    return tuple(
        _release(release, document, running[release.path], reports)
        for release in releases(state.roles[model].signed)
    )


def _release(release: Release, document: Document, running: int, reports: Reports | None) -> ReleaseStatus:
    plan, schedule = document.plan(release.path), document.schedules.get(release.path)
    outcomes = reports.outcomes(release.path).values() if reports is not None else ()
    stages = Counter(one.stage for one in outcomes)
    paused = None
    if plan is not None and plan.paused:
        paused = schedule.paused if schedule is not None else ""
    return ReleaseStatus(
        target=release.path,
        sequence=release.sequence,
        sha256=release.sha256,
        size=release.size,
        audience="nobody" if plan is None else describe(plan),
        paused=paused,
        revoked=release.sha256 in document.rollout.revoked,
        then=schedule.then if schedule is not None else (),
        running=running,
        committed=stages["committed"],
        in_progress=sum(stages[stage] for stage in _IN_PROGRESS),
        rolled_back=stages["rolled_back"],
        reasons=dict(Counter(one.reason for one in outcomes if one.stage == "rolled_back")),
    )


def _role_line(role: Role) -> str:
    until = "EXPIRED" if role.expired else "good until"
    return f"{role.role:12} version {role.version:<6} {until} {role.expires}"


def _staged_line(one: Staged) -> str:
    waits = one.waits or "ready, `release publish` publishes it"
    return f"{one.role:12} version {one.version:<6} staged: {waits}"


def _state(revoked: bool, audience: str, then: tuple[str, ...], paused: str | None) -> str:
    if revoked:
        return "REVOKED"
    later = f", then {', '.join(then)}" if then else ""
    return f"to {audience}{later}" + ("" if paused is None else f"; PAUSED: {paused}")


def _release_lines(release: ReleaseStatus) -> list[str]:
    state = _state(release.revoked, release.audience, release.then, release.paused)
    lines = [
        f"  {release.target}: {state}",
        f"    running {release.running}, committed {release.committed}, in progress {release.in_progress}, "
        f"rolled back {release.rolled_back}",
    ]
    return lines + [f"    {count} x {reason}" for reason, count in sorted(release.reasons.items())]

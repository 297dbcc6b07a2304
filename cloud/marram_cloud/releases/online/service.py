"""The online release service beside the rounds: signs again in time, answers fetches, takes reports, steers.

It knows no socket and no clock. What another process changes in the repository is seen by its timestamp file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from marram.errors import MarramError, StorageError
from marram.wire.messages import Report
from marram.wire.topics import Topics

from marram_cloud.releases.online.blocks import BlockServer, packed, read_request
from marram_cloud.releases.online.reports import Reports
from marram_cloud.releases.repository.layout import ROLLOUT, State
from marram_cloud.releases.repository.online import online_due
from marram_cloud.releases.repository.targets import Release, releases
from marram_cloud.releases.rollout import controller
from marram_cloud.releases.rollout.controller import Advance, Limits, Stop, Wait
from marram_cloud.releases.rollout.document import Document, Schedule
from marram_cloud.releases.rollout.store import RolloutStore, read

log = logging.getLogger(__name__)

Send = Callable[[str, bytes, bool], object]
_RETRY = 60.0
_STEER_OFTEN, _STEER_SELDOM = 0.5, 10.0


@dataclass
class ReleaseService:
    """send(topic, payload, retain); max_payload: bytes of the largest message that the broker takes."""

    store: RolloutStore
    reports: Reports
    topics: Topics
    limits: Limits
    send: Send
    max_payload: int = 96 << 10
    blocks: BlockServer = field(init=False)
    _online: set[str] = field(default_factory=set)
    _seen: tuple[int, int] | None = None
    _state: State | None = None
    _documents: dict[str, Document] = field(default_factory=dict)
    _targets: dict[str, tuple[str, Release]] = field(default_factory=dict)
    _steer_at: float = 0.0
    _steered: float = 0.0
    _news: bool = True
    _again_at: float = 0.0

    def __post_init__(self) -> None:
        self.blocks = BlockServer(self.store.repository.layout.path)

    def subscriptions(self) -> tuple[str, ...]:
        """What the rounds' service does not take."""
        return (self.topics.up("+", "fetch"),)

    def connected(self, now: float) -> None:
        """The link is up: make what the broker keeps what is published."""
        self._seen = None
        self.look(now)

    def presence(self, device: str, online: bool) -> None:
        """A device that counts came or went."""
        (self._online.add if online else self._online.discard)(device)
        self._news = True

    def look(self, now: float) -> None:
        """Sign what is due, take in what changed, and steer. Errors are logged, and tried again later."""
        if now < self._again_at:
            return
        try:
            self._take_in()
            if self._state is not None and online_due(self._state, datetime.fromtimestamp(now, UTC)):
                self.store.repository.refresh(datetime.fromtimestamp(now, UTC))
            if now >= self._steer_at or (self._news and now >= self._steered + _STEER_OFTEN):
                self._steered, self._steer_at, self._news = now, now + _STEER_SELDOM, False
                self._steer(now)
            self._take_in()
        except (MarramError, OSError) as error:
            log.error("the release repository: %s; tried again in %.0f s", error, _RETRY)
            self._again_at = now + _RETRY

    def take_report(self, device: str, report: Report, counter: int, now: float) -> None:
        """A verified report of a device; one that cannot be kept now must not hold rounds up."""
        try:
            if not self.reports.take(device, report, counter, now, report.candidate in self._targets):
                return
        except StorageError as error:
            log.error("a report of %s was not taken: %s", device, error)
            return
        self._news = True
        if report.stage == "rolled_back":
            log.warning("%s went back from %s: %s", device, report.candidate, report.reason)

    def fetch(self, device: str, payload: bytes) -> None:
        """A trusted device asks for blocks. Raises WireError."""
        missing = self.blocks.ask(device, read_request(payload), self.max_payload)
        if missing is not None:
            self.send(self.topics.down(device, "block"), packed(missing), False)

    def serve(self, room: int) -> bool:
        """Send blocks as long as less than ``room`` bytes went out; whether there is more to send."""
        while room > 0:
            following = self.blocks.next()
            if following is None:
                return False
            device, block = following
            payload = packed(block)
            self.send(self.topics.down(device, "block"), payload, False)
            room -= len(payload)
        return self.blocks.waiting > 0

    def _take_in(self) -> None:
        layout = self.store.repository.layout
        found = layout.timestamp.stat()
        if self._seen == (found.st_mtime_ns, found.st_ino):
            return
        content = layout.timestamp.read_bytes()
        state = layout.load()
        self._news = True
        self._documents = {model: read(layout, state, model) for model in state.models}
        self._targets = {
            release.path: (model, release)
            for model in state.models
            for release in releases(state.roles[model].signed)
        }
        self._state, self._seen = state, (found.st_mtime_ns, found.st_ino)
        log.info("releases: roll-out version %d is published", state.roles[ROLLOUT].signed.version)
        self.send(self.topics.timestamp, content, True)

    def _steer(self, now: float) -> None:
        for document in self._documents.values():
            for plan in document.rollout.plans:
                if plan.sha256 not in document.rollout.revoked and plan.target in self._targets:
                    schedule = document.schedules[plan.target]
                    outcomes = self.reports.outcomes(plan.target)
                    decision = controller.decide(plan, schedule, self._online, outcomes, self.limits, now)
                    if isinstance(decision, Wait):
                        self._steer_at = min(self._steer_at, decision.until)
                    else:
                        self._act(plan.target, schedule, decision, now)

    def _act(self, target: str, schedule: Schedule, decision: Stop | Advance, now: float) -> None:
        def change(document: Document, release: Release) -> Document:
            if document.schedules.get(target) != schedule:
                return document  # an operator was quicker
            if isinstance(decision, Stop):
                return document.paused(target, decision.reason)
            return document.advanced(target, now)

        if isinstance(decision, Stop):
            log.error("the roll-out of %s is paused: %s", target, decision.reason)
        else:
            log.info("the roll-out of %s goes on to %s", target, schedule.then[0])
        model, release = self._targets[target]
        self.store.change(model, release.version, release.kind, now, change)

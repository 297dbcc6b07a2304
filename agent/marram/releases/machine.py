"""The states of a release on the device, as a machine without I/O.

``idle -> fetching -> verified -> preflighted -> trial -> committed``, and ``rolled_back`` from any of the
middle ones and from ``committed`` while it is not confirmed (Mender's and RAUC's states that survive power
loss). From ``trial`` a release that has one more form goes back to ``verified``. ``handle`` takes one event
and gives actions; the caller saves ``state`` before it performs them, and after a power cut begins with
``Started``, which leads on from whatever was saved.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from marram.releases.state import Candidate, Installed, Last, Refused, Slot, Stage, State, Under
from marram.releases.talk import Release

_MOST_REFUSED = 64
STRIKES = 3


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that a stage may last."""

    fetching: float
    preflight: float
    trial: float


# ---- events


@dataclass(frozen=True, slots=True)
class Started:
    """The daemon starts."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The daemon ends as it was asked to."""


@dataclass(frozen=True, slots=True)
class Begun:
    """This release is being fetched."""

    release: Release


@dataclass(frozen=True, slots=True)
class Fetched:
    """It is verified and stands in the slot that was free."""

    release: Release


@dataclass(frozen=True, slots=True)
class Waits:
    """It does not go on for now. reason: why, "" when it does again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Preflighted:
    """The preflight's verdict. refusal: why the candidate may not run, "" when it may."""

    refusal: str


@dataclass(frozen=True, slots=True)
class TrialBegun:
    """The candidate runs beside the model that runs."""


@dataclass(frozen=True, slots=True)
class Trialled:
    """The trial's verdict. refusal: why not, "" when it may run. another: it has one more form to try."""

    refusal: str
    another: bool = False


@dataclass(frozen=True, slots=True)
class Ran:
    """Inference runs the candidate now, or could not. refusal: why not."""

    refusal: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The committed release has shown that it works."""


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """The committed release does not work in the daemon."""

    reason: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """The committed release's file is not what was installed (a bad card, another hand)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The committed release may not run any more. revoked: sha256 of others that may not run either."""

    reason: str
    revoked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reopened:
    """The newest release that ever ran here was revoked: any after the one that runs may come."""


@dataclass(frozen=True, slots=True)
class Late:
    """The stage has taken longer than ``allowed``."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The operator wants refused releases to be tried again."""


Event = (
    Started | Stopped | Begun | Fetched | Waits | Preflighted | TrialBegun | Trialled | Ran | Confirmed
    | Misbehaved | Damaged | Withdrawn | Reopened | Late | Retry
)  # fmt: skip


# ---- actions


@dataclass(frozen=True, slots=True)
class Preflight:
    """Try the candidate in a child."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Try:
    """Run the candidate beside the model that runs."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Run:
    """Put the candidate in front of inference, and say ``Ran``."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Return:
    """Put this release in front of inference again; None is the configured bundle."""

    to: Installed | None
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """End whatever tries the candidate, and forget its file."""


@dataclass(frozen=True, slots=True)
class Tell:
    """The stage changed: report it."""


Action = Preflight | Try | Run | Return | Drop | Tell


@dataclass
class Machine:
    """See the module's docstring. agent: its version. configured: digest of the YAML's bundle."""

    state: State
    deadlines: Deadlines
    agent: str
    configured: str

    def handle(self, event: Event, now: float) -> list[Action]:
        """One step at Unix second ``now``. An event that does not fit the stage changes nothing."""
        match event:
            case Started():
                return self._started(now)
            case Begun():
                return self._begun(event.release, now)
            case Fetched():
                return self._fetched(event.release, now)
            case Waits():
                return self._waits(event.reason)
            case Preflighted():
                return self._preflighted(event.refusal, now)
            case TrialBegun():
                return self._trial_begun(now)
            case Trialled():
                return self._trialled(event.refusal, event.another, now)
            case Ran():
                return self._ran(event.refusal, now)
            case Late():
                return self._late(now)
            case _:
                return self._settled(event, now)

    def _settled(
        self, event: Stopped | Confirmed | Misbehaved | Damaged | Withdrawn | Reopened | Retry, now: float
    ) -> list[Action]:
        """Events that are not about a candidate."""
        match event:
            case Stopped():
                self._set(clean=True)
            case Confirmed():
                self._confirmed()
            case Misbehaved():
                return self._back(event.reason, (), now)
            case Damaged():
                return self._back(event.reason, (), now, for_good=False)
            case Withdrawn():
                return self._withdrawn(event.reason, event.revoked, now)
            case Reopened():
                self._reopen()
            case Retry():
                self._set(refused=())
        return []

    @property
    def running(self) -> Installed | None:
        """The release that inference is to run, None for the configured bundle.

        Another bundle in the YAML is the operator's word and goes before older releases.
        """
        committed = self.state.committed
        return committed if committed is not None and committed.configured == self.configured else None

    @property
    def allowed(self) -> float | None:
        """Seconds that the present stage may last; None outside of one."""
        candidate = self.state.candidate
        if candidate is None:
            return None
        if candidate.stage == "fetching":
            return self.deadlines.fetching
        return self.deadlines.trial if candidate.stage == "trial" else self.deadlines.preflight

    def report(self) -> tuple[Stage, str, str, float]:
        """(stage, target path, reason, since) of the last release that this device was to run."""
        candidate = self.state.candidate
        if candidate is not None:
            return candidate.stage, candidate.release.target, candidate.waits, candidate.since
        last = self.state.last
        return last.stage, last.target, last.reason, last.since

    def refusal(self, sha256: str) -> str | None:
        """Why this file was refused here before; None when it may be tried."""
        for refused in self.state.refused:
            if refused.sha256 == sha256 and self._holds(refused):
                return refused.reason
        return None

    @property
    def refused(self) -> tuple[str, ...]:
        """sha256 of all files that may not be tried here."""
        return tuple(refused.sha256 for refused in self.state.refused if self._holds(refused))

    # ---- steps

    def _started(self, now: float) -> list[Action]:
        state, unclean, committed = self.state, not self.state.clean, self.running
        at_stake = state.candidate is not None or (committed is not None and not committed.confirmed)
        self._set(clean=not at_stake)
        if committed is not None and not committed.confirmed and unclean:
            starts = committed.starts + 1
            self._set(committed=msgspec.structs.replace(committed, starts=starts))
            if starts >= STRIKES:
                return self._back(f"the daemon went down {starts} times while it ran", (), now)
        candidate = state.candidate
        if candidate is None or candidate.stage == "fetching":
            return []
        strikes = candidate.strikes + unclean
        if strikes >= STRIKES:
            return self._refuse(f"the device went down {strikes} times while it was tried", now)
        again = msgspec.structs.replace(candidate, stage="verified", since=now, strikes=strikes, waits="")
        self._set(candidate=again)
        return [Preflight(again), Tell()]

    def _begun(self, release: Release, now: float) -> list[Action]:
        candidate = self.state.candidate
        if candidate is not None and candidate.stage != "fetching":
            return []
        if candidate is not None and candidate.release.sha256 == release.sha256:
            self._set(candidate=msgspec.structs.replace(candidate, waits=""))
            return []
        self._set(candidate=Candidate(release, "fetching", now))
        return [Tell()]

    def _fetched(self, release: Release, now: float) -> list[Action]:
        candidate = self.state.candidate
        if candidate is None or candidate.stage != "fetching" or candidate.release != release:
            return []
        slot = self.free_slot
        verified = Candidate(release, "verified", now, slot)
        previous = self.state.previous
        kept = previous if previous is not None and previous.slot != slot else None
        self._set(candidate=verified, previous=kept, clean=False)
        return [Preflight(verified), Tell()]

    @property
    def free_slot(self) -> Slot:
        """Where a candidate may be put: never where the committed release stands."""
        committed = self.state.committed
        return "b" if committed is not None and committed.slot == "a" else "a"

    def _waits(self, reason: str) -> list[Action]:
        candidate = self.state.candidate
        if candidate is None or candidate.waits == reason:
            return []
        self._set(candidate=msgspec.structs.replace(candidate, waits=reason))
        return [Tell()]

    def _preflighted(self, refusal: str, now: float) -> list[Action]:
        candidate = self._at("verified")
        if candidate is None:
            return []
        if refusal:
            return self._refuse(refusal, now)
        candidate = self._on(candidate, "preflighted", now)
        return [Tell(), Try(candidate)]

    def _trial_begun(self, now: float) -> list[Action]:
        candidate = self._at("preflighted")
        if candidate is None:
            return []
        self._on(candidate, "trial", now)
        return [Tell()]

    def _trialled(self, refusal: str, another: bool, now: float) -> list[Action]:
        candidate = self._at("trial")
        tried = candidate or self._at("preflighted")
        if tried is not None and refusal and another:
            again = self._on(tried, "verified", now)
            return [Tell(), Preflight(again)]
        if refusal and tried is not None:
            return self._refuse(refusal, now)
        return [Run(candidate)] if candidate is not None else []

    def _ran(self, refusal: str, now: float) -> list[Action]:
        candidate = self._at("trial")
        if candidate is None or candidate.slot is None:
            return []
        if refusal:
            return self._refuse(refusal, now)
        release = candidate.release
        self._set(
            committed=Installed(release, candidate.slot, self.configured),
            previous=self.running,
            candidate=None,
            sequence=max(self.state.sequence, release.sequence),
            newest=release.sha256 if release.sequence >= self.state.sequence else self.state.newest,
            last=Last("committed", release.target, "", now),
        )
        return [Tell()]

    def _confirmed(self) -> None:
        committed = self.running
        if committed is not None:
            self._set(committed=msgspec.structs.replace(committed, confirmed=True))

    def _back(self, reason: str, revoked: tuple[str, ...], now: float, for_good: bool = True) -> list[Action]:
        """From the committed release to the one before it, or to the configured bundle.

        for_good: it is not tried again; else it may be fetched once more.
        """
        committed, previous = self.running, self.state.previous
        if committed is None:
            return []
        if previous is not None and (
            previous.configured != self.configured
            or previous.release.sha256 in revoked
            or self.refusal(previous.release.sha256) is not None
        ):
            previous = None
        self._set(
            committed=previous,
            previous=None,
            refused=self._with(committed.release, reason) if for_good else self.state.refused,
            sequence=self.state.sequence if for_good else committed.release.sequence - 1,
            last=Last("rolled_back", committed.release.target, reason, now),
        )
        return [Return(previous, reason), Tell()]

    def _withdrawn(self, reason: str, revoked: tuple[str, ...], now: float) -> list[Action]:
        actions = self._back(reason, revoked, now)
        if actions:
            self._reopen()
        return actions

    def _reopen(self) -> None:
        """The way back to an older release is open: whoever may revoke has said so."""
        running = self.running
        if running is not None:
            self._set(sequence=running.release.sequence, newest=running.release.sha256)
        else:
            self._set(sequence=-1, newest="")

    def _refuse(self, reason: str, now: float, for_good: bool = True) -> list[Action]:
        candidate = self.state.candidate
        assert candidate is not None
        self._set(
            candidate=None,
            refused=self._with(candidate.release, reason) if for_good else self.state.refused,
            last=Last("rolled_back", candidate.release.target, reason, now),
        )
        return [Drop(), Tell()]

    def _late(self, now: float) -> list[Action]:
        candidate, allowed = self.state.candidate, self.allowed
        if candidate is None or allowed is None:
            return []
        why = f": {candidate.waits}" if candidate.waits else ""
        reason = f"the stage {candidate.stage} was not done after {allowed / 3600:.3g} h{why}"
        # Not the release's own fault: no network, or too few windows. The next look begins it again.
        return self._refuse(reason, now, for_good=False)

    def _at(self, stage: Stage) -> Candidate | None:
        candidate = self.state.candidate
        return candidate if candidate is not None and candidate.stage == stage else None

    def _on(self, candidate: Candidate, stage: Under, now: float) -> Candidate:
        """To another stage."""
        moved = msgspec.structs.replace(candidate, stage=stage, since=now, waits="")
        self._set(candidate=moved)
        return moved

    def _with(self, release: Release, reason: str) -> tuple[Refused, ...]:
        refused = Refused(release.sha256, release.target, reason, self.agent, self.configured)
        others = tuple(one for one in self.state.refused if one.sha256 != release.sha256)
        return (*others, refused)[-_MOST_REFUSED:]

    def _holds(self, refused: Refused) -> bool:
        return (refused.agent, refused.configured) == (self.agent, self.configured)

    def _set(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)

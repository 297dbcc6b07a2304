"""The device's updates: looks at the repository in time, and does what the machine of a release decides.

A member of the daemon's loop. What inference runs changes here and nowhere else: after a release was
verified, preflighted and tried, and back again when it does not work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from marram.bundle.description import Description
from marram.bundle.file import Bundle
from marram.bundle.manifest import InferRole
from marram.children.child import ChildError
from marram.config.schema import Releases
from marram.errors import BundleError, MarramError, ProgramError, StorageError
from marram.learning.shell import Link
from marram.loop import Loop
from marram.releases import machine as machines
from marram.releases.forms import Forms, better, possible
from marram.releases.gates import Measured
from marram.releases.hold import Hold, waits_for
from marram.releases.installation import Installation
from marram.releases.looking import Look
from marram.releases.machine import Action, Deadlines
from marram.releases.reporting import Reporter
from marram.releases.state import Candidate, Installed
from marram.releases.talk import Candidate as Trial
from marram.releases.talk import Job, Kind, Outcome, Release
from marram.releases.trying import Trying
from marram.wire.rollout import place
from marram.wire.signed import Author
from marram.wire.topics import Topics

log = logging.getLogger(__name__)

_AGAIN = 60.0
_LONGEST_SILENCE = 600.0


class Inference(Protocol):
    """What the updater needs of the pipeline."""

    @property
    def predicted(self) -> int: ...

    @property
    def misbehaved(self) -> str:
        """Why the model was left for its fallback, "" while it works."""
        ...

    def swap(self, bundle: Bundle, fallback: Bundle | None) -> None:
        """Run this bundle; windows on which it fails are predicted by the fallback. Raises MarramError."""
        ...

    def keep(self) -> None:
        """The fallback is not needed any more."""
        ...


@dataclass(frozen=True)
class Place:
    """What a device is to its releases.

    root: file of the factory root. store: the sample store's file, "" for none. nice: of the children.
    forms: how the model runs. description: of a bare model file. authority: file of the fleet's, by which a
    repository over HTTPS may be believed too.
    """

    device: str
    tags: tuple[str, ...]
    model: str
    root: Path
    store: str
    nice: int
    forms: Forms
    description: Description | None = None
    authority: Path | None = None


def deadlines(settings: Releases) -> Deadlines:
    """As the machine takes them."""
    # A preflight is at most four children: two forms are measured and tried.
    return Deadlines(settings.deadline, 5 * settings.preflight_timeout, settings.trial.deadline)


@dataclass
class Updater:
    """See the module's docstring. changed: called when another model has been put in front of inference.

    minute: of the local day. clock: Unix seconds, whatever timestamps said. tick: seconds between two looks
    at what is not announced.
    """

    settings: Releases
    at: Place
    installation: Installation
    inference: Inference
    topics: Topics
    author: InitVar[Author]
    link: Link
    loop: Loop
    hold: Hold
    minute: Callable[[], int]
    clock: Callable[[], float]
    changed: Callable[[], None]
    tick: float = 5.0
    wake_at: float | None = 0.0
    checked: float = 0.0
    problem: str = ""
    trying: Trying = field(init=False)
    look: Look = field(init=False)
    reporter: Reporter = field(init=False)
    _next_look: float = 0.0
    _failures: int = 0
    _news: int | None = None
    _looked_for: int | None = None
    _asked_for: str = ""
    _connected: bool = False
    _stage: tuple[str, float] = ("", 0.0)
    _since_swap: int = 0
    _to_run: Candidate | None = None
    _forms: Mapping[InferRole, Measured | str] = field(default_factory=dict)
    _left: tuple[str, Mapping[InferRole, Measured | str]] = "", {}

    def __post_init__(self, author: Author) -> None:
        trial = self.settings.trial
        self.trying = Trying(
            self.loop,
            trial.limits(),
            self.at.store,
            trial.stored,
            self.settings.preflight_timeout,
            trial.windows,
        )
        self.look = Look(self.topics, self.at.device, self.link, self.loop, self._begun, self._looked)
        self.reporter = Reporter(
            self.topics.report(self.at.device), self.at.model, author, self.link, self.installation
        )
        self._stage = self._present(), time.monotonic()

    # ---- what the daemon tells

    def begin(self, now: float) -> None:
        """The daemon runs: go on with what was pending."""
        pending, self.installation.pending = self.installation.pending, []
        self._perform(pending, now)
        if not self.followed:
            self.problem = f"{self.at.root} is not there: enrol the device again to follow releases"
            log.warning("no releases are followed: %s", self.problem)

    @property
    def followed(self) -> bool:
        """Whether there is a root to trust releases by."""
        return self.at.root.exists()

    def end(self, now: float) -> None:
        """The daemon stops."""
        self.look.stop()
        self.trying.stop()

    def connected(self, max_payload: int, now: float) -> None:
        """The link is up."""
        self._connected = True
        self.link.subscribe((self.topics.timestamp,))
        self.look.connected(max_payload, now)
        self.reporter.connected(now)

    def disconnected(self) -> None:
        """The link is down."""
        self._connected = False
        self.look.disconnected()
        self.reporter.disconnected()

    def arrived(self, topic: str, payload: bytes, now: float) -> bool:
        """Take a message; False when it is not about releases."""
        if topic == self.topics.timestamp:
            self._announced(payload, now)
        elif topic == self.topics.down(self.at.device, "block"):
            self.look.arrived(payload, now)
        else:
            return False
        return True

    def look_now(self, now: float) -> None:
        """The operator asks."""
        self._next_look = now
        self.wake(now)

    def retry(self, now: float) -> None:
        """The operator wants refused releases to be tried again."""
        self._tell(machines.Retry(), now)
        self.look_now(now)

    def settle(self, settings: Releases, at: Place, inference: Inference, now: float) -> None:
        """Other settings, another place among the devices, models loaded another way from now on."""
        self.settings, self.at, self.inference = settings, at, inference
        self.installation.machine.deadlines = deadlines(settings)
        self.trying.settle(settings)
        self.wake(now)

    def introduce(self, author: Author, now: float) -> None:
        """The device has a new certificate: report under it."""
        self.reporter.author = author
        self.reporter.tell(now)

    def wake(self, now: float) -> None:
        """See what is due."""
        # Where the clock was set back, what was due later than it can be is due now.
        self._next_look = min(self._next_look, now + self.settings.every)
        if self.look.wake_at is not None and not now < self.look.wake_at < now + _LONGEST_SILENCE:
            self.look.wake(now)
        self._watch(now)
        waits = waits_for(self.hold, self.settings.hours, self.minute())
        self._late(now)
        if self._to_run is not None and not waits:
            self._run(self._to_run, now)
        if self.look.pid is None and self.trying.pid is None and now >= self._next_look:
            self._perhaps_look(waits, now)
        due = (now + self.tick, self.look.wake_at, self._next_look if self._next_look > now else None)
        self.wake_at = min(at for at in due if at is not None)

    # ---- looking

    def _announced(self, payload: bytes, now: float) -> None:
        """The repository's timestamp as somebody published it: a hint and no more."""
        try:
            news = msgspec.json.decode(payload, type=_Timestamp).signed.meta["snapshot.json"].version
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
            return
        if news != self._news:
            self._news = news
            self._look_within(self.settings.spread, now)

    def _look_within(self, spread: float, now: float) -> None:
        """Soon, but not all devices at once: each has its own place in the spread."""
        self._next_look = now + spread * place("look", self.at.device)
        self.wake_at = min(self.wake_at or now, self._next_look)

    def _perhaps_look(self, waits: str, now: float) -> None:
        candidate = self.installation.machine.state.candidate
        if waits or (candidate is not None and candidate.stage != "fetching"):
            return
        # Over the broker nobody is asked who has not shown that there is something to ask for.
        if not self.followed or not (self.settings.url or (self._connected and self._news is not None)):
            return
        self._next_look = now + self.settings.every
        self._looked_for = self._news
        job = self._job(now)
        self._asked_for = job.running
        try:
            self.look.start(job, self.settings.deadline, now)
        except ChildError as error:
            self._looked(Outcome(error=str(error)), now)

    def _job(self, now: float) -> Job:
        installation, settings = self.installation, self.settings
        machine, folder = installation.machine, installation.slots.folder
        running = machine.running
        return Job(
            base=f"{settings.url.rstrip('/')}/" if settings.url else "",
            metadata=str(folder / "metadata"),
            root=str(self.at.root),
            spool=str(self._spool),
            held=(*(str(installation.slots.path(slot)) for slot in ("a", "b")), self._configured),
            now=now,
            clock=self.clock(),
            timekeepers=machine.state.timekeepers,
            device=self.at.device,
            tags=self.at.tags,
            model=self.at.model,
            running=running.release.sha256 if running else "",
            running_target=running.release.target if running else "",
            # One change at a time; but a revocation is heeded also before a release is confirmed.
            settled=running is None or running.confirmed,
            sequence=machine.state.sequence,
            refused=machine.refused,
            authority=str(self.at.authority) if self.at.authority is not None else None,
            memory=settings.memory,
            nice=self.at.nice,
        )

    def _begun(self, release: Release, now: float) -> None:
        log.info("release %s: fetching %d bytes", release.target, release.size)
        self._tell(machines.Begun(release), now)

    def _looked(self, outcome: Outcome, now: float) -> None:
        self._keep_time(outcome, now)
        running = self.installation.machine.running
        if outcome.withdrawn and running is not None and running.release.sha256 == self._asked_for:
            log.warning("the release that runs is withdrawn: %s", outcome.withdrawn)
            self._tell(machines.Withdrawn(f"withdrawn: {outcome.withdrawn}", outcome.revoked), now)
        reopens = self.installation.machine.state.newest in outcome.revoked
        if reopens:
            self._tell(machines.Reopened(), now)
        if outcome.error:
            self._failed(outcome, now)
            if reopens:
                self._look_within(0.0, now)
            return
        self._failures, self.problem, self.checked = 0, "", now
        if outcome.refused:
            self.problem = f"{outcome.refused} was refused here before"
        release = outcome.release
        if release is not None:
            log.info(
                "release %s is verified: %d bytes fetched, %d from what was here, %d from before",
                release.target, outcome.fetched, outcome.reused, outcome.resumed,
            )  # fmt: skip
            self._place(release, now)
        elif outcome.withdrawn:
            self._look_within(0.0, now)
        elif self._news != self._looked_for:
            self._look_within(self.settings.spread, now)

    def _failed(self, outcome: Outcome, now: float) -> None:
        log.warning("no look at the releases: %s", outcome.error)
        self.problem = outcome.error
        self._tell(machines.Waits(outcome.error), now)
        pause = min(_AGAIN * 2 ** min(self._failures, 30), self.settings.every)
        self._failures += 1
        self._next_look = now + pause * (0.5 + place("again", f"{self.at.device}{self._failures}"))

    def _place(self, release: Release, now: float) -> None:
        installation = self.installation
        try:
            installation.slots.place(self._spool, installation.machine.free_slot)
        except StorageError as error:
            self._failed(Outcome(error=str(error)), now)
            return
        self._tell(machines.Fetched(release), now)

    def _keep_time(self, outcome: Outcome, now: float) -> None:
        """What was signed has been; and the clock is believed as far as signed metadata reaches."""
        if not outcome.timekeepers.keys:
            return  # no timestamp was verified
        machine = self.installation.machine
        before, keepers = machine.state, outcome.timekeepers
        if before.timekeepers.replaced_by(keepers):
            floor = outcome.signed_at
        else:
            floor = max(before.floor, outcome.signed_at, min(now, outcome.expires))
        if keepers.root < before.timekeepers.root:
            keepers = before.timekeepers
        machine.state = msgspec.structs.replace(before, floor=floor, timekeepers=keepers)

    # ---- performing

    def _tell(self, event: machines.Event, now: float) -> None:
        self._perform(self.installation.handle(event, now), now)

    def _perform(self, actions: list[Action], now: float) -> None:
        for action in actions:
            match action:
                case machines.Preflight():
                    self._preflight(action.candidate, now)
                case machines.Try():
                    self._try(action.candidate, now)
                case machines.Run():
                    self._to_run = action.candidate
                    self.wake(now)
                case machines.Return():
                    self._return(action.to, action.reason, now)
                case machines.Drop():
                    self._to_run = None
                    self.trying.stop()
                case machines.Tell():
                    self._changed_stage(now)

    def _preflight(self, candidate: Candidate, now: float) -> None:
        """Measure its forms where it has more than one, and try the one that is chosen."""
        assert candidate.slot is not None
        left, self._left = self._left, ("", {})
        if left[0] == candidate.release.sha256:
            self._measured(candidate, left[1], now)
            return
        self._forms = {}
        try:
            bundle = self.installation.slots.load(candidate.release, candidate.slot)
            roles, _ = possible(bundle, self.at.forms.wanted)
            if len(roles) == 1:
                self._preflight_form(candidate, roles[0])
                return
            forms = [self._candidate(candidate, role) for role in roles]
            self.trying.measure(forms, lambda measured, now: self._measured(candidate, measured, now))
        except (BundleError, ChildError) as error:
            self._tell(machines.Preflighted(str(error)), now)

    def _measured(
        self, candidate: Candidate, measured: Mapping[InferRole, Measured | str], now: float
    ) -> None:
        self._forms = measured
        choice = self.at.forms.settle(candidate.release.sha256, measured)
        if choice.role is None:
            self._tell(machines.Preflighted(choice.why), now)
            return
        log.info("release %s runs as %s: %s", candidate.release.target, choice.role, choice.why)
        role = choice.role
        others = {other: one for other, one in measured.items() if other != role}

        def refused(refusal: str, now: float) -> None:
            """Perhaps its other form may run."""
            log.warning("release %s as %s: %s", candidate.release.target, role, refusal)
            self._measured(candidate, {**others, role: refusal}, now)

        self._preflight_form(candidate, role, refused if _any_sound(others) else None)

    def _preflight_form(
        self, candidate: Candidate, role: InferRole, refused: Callable[[str, float], None] | None = None
    ) -> None:
        """Try one form beside the running model. refused: called in place of telling the machine."""

        def done(refusal: str, now: float) -> None:
            if refusal and refused is not None:
                refused(refusal, now)
            else:
                self._tell(machines.Preflighted(refusal), now)

        try:
            self.trying.preflight(self._running(), self._candidate(candidate, role), done)
        except ChildError as error:
            done(str(error), self.loop.clock())

    def _try(self, candidate: Candidate, now: float) -> None:
        assert candidate.slot is not None
        role = self._role(Installed(candidate.release, candidate.slot, ""))
        try:
            self.trying.trial(
                self._running(),
                self._candidate(candidate, role),
                lambda now: self._tell(machines.TrialBegun(), now),
                lambda refusal, now: self._trialled(candidate, role, refusal, now),
            )
        except ChildError as error:
            self._tell(machines.Trialled(str(error)), now)

    def _trialled(self, candidate: Candidate, role: InferRole, refusal: str, now: float) -> None:
        """The trial's verdict on one form. Perhaps its other form may run."""
        forms = {**self._forms, role: refusal}
        another = bool(refusal) and isinstance(self._forms.get(role), Measured) and _any_sound(forms)
        if another:
            log.warning("release %s as %s: %s", candidate.release.target, role, refusal)
            self._left = candidate.release.sha256, forms
        elif refusal and len(forms) > 1:
            refusal = better(forms)[1]
        self._tell(machines.Trialled(refusal, another), now)

    def _run(self, candidate: Candidate, now: float) -> None:
        """Put the candidate in front of inference. Only what inference has loaded is saved as committed."""
        self._to_run = None
        installation = self.installation
        before = installation.machine.running
        assert candidate.slot is not None
        try:
            bundle = installation.slots.load(candidate.release, candidate.slot)
            fallback = installation.bundle(before)
            self.inference.swap(bundle, fallback)
        except (BundleError, ProgramError) as error:
            self._tell(machines.Ran(str(error)), now)
            return
        try:
            self._tell(machines.Ran(""), now)
        except StorageError as error:
            log.error("release %s is not committed: %s", candidate.release.target, error)
            self.inference.swap(fallback, None)
            installation.machine.state = msgspec.structs.replace(
                installation.machine.state, committed=before, candidate=candidate
            )
            self._tell(machines.Waits(str(error)), now)
            self._to_run = candidate
            return
        self._since_swap = self.inference.predicted
        self.changed()

    def _return(self, to: Installed | None, reason: str, now: float) -> None:
        """Back to what ran before, or else to the configured bundle."""
        log.error("back to %s: %s", to.release.target if to else "the configured bundle", reason)
        try:
            self.inference.swap(self.installation.bundle(to), None)
        except MarramError as error:
            log.error("%s does not run: %s", to.release.target if to else "the configured bundle", error)
            if to is not None:
                self._changed_stage(now)
                self._tell(machines.Damaged(str(error)), now)
                return
        self.changed()

    def _watch(self, now: float) -> None:
        """Does the committed release work?"""
        running = self.installation.machine.running
        if running is None or running.confirmed:
            return
        if self.inference.misbehaved:
            self._tell(machines.Misbehaved(self.inference.misbehaved), now)
        elif self.inference.predicted - self._since_swap >= self.settings.trial.confirm:
            log.info("release %s is confirmed", running.release.target)
            self.inference.keep()
            self._tell(machines.Confirmed(), now)
            self._look_within(self.settings.spread, now)

    def _late(self, now: float) -> None:
        """The stage's time, by a clock that nobody sets."""
        allowed = self.installation.machine.allowed
        if self._stage[0] != self._present():
            self._stage = self._present(), time.monotonic()
        if allowed is None or time.monotonic() - self._stage[1] < allowed:
            return
        if self._present().startswith("trial"):
            seen = self.trying.measured.windows
            waits = waits_for(self.hold, self.settings.hours, self.minute())
            self._tell(machines.Waits(waits or f"saw {seen} of {self.settings.trial.windows} windows"), now)
        self.look.stop()
        self._tell(machines.Late(), now)

    def _present(self) -> str:
        candidate = self.installation.machine.state.candidate
        return f"{candidate.stage} {candidate.release.sha256}" if candidate is not None else ""

    # ---- telling

    def _changed_stage(self, now: float) -> None:
        stage, target, reason, _ = self.installation.machine.report()
        log.log(
            logging.WARNING if stage == "rolled_back" else logging.INFO,
            "release %s: %s%s", target, stage, f": {reason}" if reason else "",
        )  # fmt: skip
        self.reporter.tell(now)

    # ---- files

    @property
    def _spool(self) -> Path:
        return self.installation.slots.folder / "spool" / "release"

    @property
    def _configured(self) -> str:
        return self.installation.slots.configured.source

    def _running(self) -> Trial:
        running = self.installation.machine.running
        infer = self.installation.slots.configured.manifest.programs["infer"].runtime
        configured: Kind = "marram" if self.at.description is None else infer
        release = running.release if running else None
        return self._trial(
            "the running model",
            release.version if release else "",
            release.kind if release else configured,
            self.installation.running_file,
            self._role(running),
        )

    def _role(self, installed: Installed | None) -> InferRole:
        """The form that runs, or will; what does not load is told of by the child."""
        try:
            return self.at.forms.role(self.installation.bundle(installed))
        except BundleError:
            return "infer"

    def _candidate(self, candidate: Candidate, role: InferRole) -> Trial:
        release = candidate.release
        assert candidate.slot is not None
        file = self.installation.slots.path(candidate.slot)
        return self._trial(release.target, release.version, release.kind, file, role)

    def _trial(self, name: str, version: str, kind: Kind, file: Path, role: InferRole) -> Trial:
        at = self.at
        return Trial(
            name=name,
            version=version,
            file=str(file),
            kind=kind,
            configured=self._configured,
            description=at.description,
            threads=at.forms.options.threads,
            providers=at.forms.options.providers,
            memory=self.settings.memory,
            nice=at.nice,
            role=role,
        )


def _any_sound(measured: Mapping[InferRole, Measured | str]) -> bool:
    return better(measured)[0] is not None


class _Version(msgspec.Struct, frozen=True):
    version: int


class _Signed(msgspec.Struct, frozen=True):
    meta: dict[str, _Version]


class _Timestamp(msgspec.Struct, frozen=True):
    signed: _Signed

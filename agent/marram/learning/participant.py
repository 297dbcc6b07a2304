"""A device's part in federated learning, as a state machine without I/O.

``handle(event, now)`` takes what happened and returns what to do, in order. The machine touches no clock,
socket, disk or random source: ``marram.learning.shell`` (on a device) and the simulation perform the
actions. Everything that must survive a power cut is written by a ``Commit`` before the action that tells
the other side; ``Participant`` is rebuilt from the journal by ``Memory``.

The way of one round: offer -> (parameters fetched) -> governor asked -> trained -> delta committed to the
outbox -> sent until the aggregator's signed receipt or refusal takes it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from marram.errors import WireError
from marram.wire import envelope, reasons
from marram.wire.codec.seed import device_seed
from marram.wire.messages import (
    Artefact,
    Decline,
    Delta,
    Metrics,
    Offer,
    Parameters,
    Receipt,
    Refusal,
)
from marram.wire.signed import AggregatorTrust, Author
from marram.wire.topics import Topics

RESEND_FIRST, RESEND_LAST = 20.0, 600.0
ASK_AGAIN = 30.0
FETCH_PATIENCE = 60.0
MAX_ATTEMPTS = 3
IN_FLIGHT = 3  # deltas sent and not answered; an aggregator keeps few unfinished transfers a device


# ---- what survives a restart -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """The training-track parameters on disk: their version and the sha256 of their bytes."""

    version: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """What the journal holds. outbox: digests of sealed deltas without a receipt, oldest first.

    run: the one that all of it belongs to; empty before the first offer. offered: the highest counter of an
    aggregator's offer that was followed.
    """

    held: Held
    run: bytes = b""
    offered: int = 0
    done_round: int = -1
    counter: int = 0
    outbox: tuple[bytes, ...] = ()


# ---- events ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The link is up (again) and subscriptions must be made."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The link is down; nothing that was published since the last receipt is certain."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message on one of the subscribed topics."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Woke:
    """``wake_at`` has passed."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Answer to ``Apply`` and ``Begin``: what is held now, or why the artefacts did not lead to the base."""

    held: Held
    error: str = ""


@dataclass(frozen=True, slots=True)
class Permission:
    """Answer to ``Ask``: may this round be trained now, and if not, why."""

    round: int
    allowed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Trained:
    """Answer to ``Train``: the encoded delta and what was measured. residual: bytes to commit with it."""

    round: int
    payload: bytes
    residual: bytes | None
    samples: int
    before: Metrics
    after: Metrics
    ranges: bytes | None = None


@dataclass(frozen=True, slots=True)
class TrainingFailed:
    """Answer to ``Train``: the child ended without a result."""

    round: int
    reason: str


Event = Connected | Disconnected | Arrived | Woke | Applied | Permission | Trained | TrainingFailed


# ---- actions -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribe:
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Apply:
    """Bring the held parameters to ``offer`` by these sealed artefacts, in order; commit; say Applied.

    from_snapshot: the first of them is a snapshot, so that what is held does not matter.
    """

    offer: Offer
    parameters: tuple[Parameters, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """One transaction: forget the rounds of another run (done, owed, in the outbox); then say Applied.

    What is held is the bundle's own parameters again. offered: counter of the offer that says so.
    """

    run: bytes
    offered: int


@dataclass(frozen=True, slots=True)
class Ask:
    offer: Offer


@dataclass(frozen=True, slots=True)
class Train:
    offer: Offer


@dataclass(frozen=True, slots=True)
class StopTraining:
    """A newer round has come; the child's result is not wanted any more."""


@dataclass(frozen=True, slots=True)
class CommitDelta:
    """One transaction: the sealed delta into the outbox, the new residual, the round marked as done.

    offered: as in ``Memory``.
    """

    round: int
    offered: int
    digest: bytes
    sealed: bytes
    chain: str
    seed: int
    payload: bytes
    residual: bytes | None
    counter: int


@dataclass(frozen=True, slots=True)
class Settle:
    """One transaction: the delta leaves the outbox; ``give_back`` adds it to the residual again."""

    digest: bytes
    give_back: bool


@dataclass(frozen=True, slots=True)
class Send:
    """Publish the sealed delta of this digest, in chunks."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class SendDecline:
    """Publish this sealed refusal to train; nothing is lost if it does not arrive."""

    sealed: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the log and the status: level "info" or "warning"."""

    text: str
    level: str = "info"


Action = (
    Subscribe | Unsubscribe | Apply | Begin | Ask | Train | StopTraining | CommitDelta | Settle | Send
    | SendDecline | Note
)  # fmt: skip


# ---- the machine -------------------------------------------------------------------------------------


@dataclass
class _Fetch:
    """Artefacts on their way: chunks by (artefact, part); complete ones are opened in order."""

    offer: Offer
    path: tuple[Artefact, ...]
    topics: dict[str, tuple[int, int]]
    parts: list[dict[int, bytes]]
    since: float


@dataclass
class Participant:
    """See the module's docstring.

    family: ``Manifest.family`` of the bundle that this device can train; an offer of another is declined.
    not_before: no round is begun earlier (Unix s).
    """

    topics: Topics
    author: Author
    trust: AggregatorTrust
    family: str
    memory: Memory
    not_before: float = 0.0
    offer: Offer | None = None
    refusals: dict[str, int] = field(default_factory=dict)
    last_refusal: str = ""
    phase: str = "waiting for an offer"
    _outbox: list[bytes] = field(default_factory=list)
    _fetch: _Fetch | None = None
    _training: int | None = None
    _attempts: int = 0
    _declined: str = ""  # why the current offer is not followed
    _bad: set[bytes] = field(default_factory=set)  # artefacts of the current offer that came damaged
    _pause: float = ASK_AGAIN  # before they are fetched again
    _told: bool = False  # whether the aggregator has heard of that on this connection
    connected: bool = False
    _resend_at: float | None = None
    _resend_after: float = RESEND_FIRST
    _ask_at: float | None = None

    def __post_init__(self) -> None:
        self.held, self.run = self.memory.held, self.memory.run
        self.done_round = self.memory.done_round
        self._counter, self._offered = self.memory.counter, self.memory.offered
        self._outbox = list(self.memory.outbox)

    @property
    def wake_at(self) -> float | None:
        """When ``Woke`` is due (Unix s), or None."""
        fetch = self._fetch.since + FETCH_PATIENCE if self._fetch else None
        times = [time for time in (self._resend_at, self._ask_at, fetch) if time is not None]
        return min(times) if times else None

    @property
    def outbox(self) -> int:
        """Deltas without a receipt."""
        return len(self._outbox)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event; return what is to be done, in this order."""
        match event:
            case Connected():
                return self._on_connected(now)
            case Disconnected():
                self.connected = self._told = False
                self._resend_at = None
                return []
            case Arrived():
                return self._on_message(event.topic, event.payload, now)
            case Woke():
                return self._on_woke(now)
            case Applied():
                return self._on_applied(event, now)
            case Permission():
                return self._on_permission(event, now)
            case Trained():
                return self._on_trained(event, now)
            case TrainingFailed():
                return self._on_failed(event, now)

    # -- link

    def _on_connected(self, now: float) -> list[Action]:
        self.connected = True
        own = (
            self.topics.round,
            self.topics.down(self.author.subject.name, "receipt"),
            self.topics.down(self.author.subject.name, "refusal"),
        )
        actions: list[Action] = [Subscribe(own)]
        if self._fetch:
            actions.append(Subscribe(tuple(self._fetch.topics)))
        return actions + self._resend(now, first=True) + self._tell_decline(now)

    def _resend(self, now: float, first: bool) -> list[Action]:
        if not self._outbox or not self.connected:
            self._resend_at = None
            return []
        self._resend_after = RESEND_FIRST if first else min(self._resend_after * 2, RESEND_LAST)
        self._resend_at = now + self._resend_after
        return [Send(digest) for digest in self._outbox[:IN_FLIGHT]]

    def _on_woke(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._resend_at is not None and now >= self._resend_at:
            actions += self._resend(now, first=False)
        if self._ask_at is not None and now >= self._ask_at:
            self._ask_at = None
            actions += self._consider(now)
        if self._fetch and now >= self._fetch.since + FETCH_PATIENCE:
            # Asking again makes the broker send the retained parts again.
            wanted = tuple(self._fetch.topics)
            self._fetch.since = now
            actions += [Unsubscribe(wanted), Subscribe(wanted)]
        return actions

    # -- messages

    def _on_message(self, topic: str, payload: bytes, now: float) -> list[Action]:
        if not payload:
            # A retained message that was taken off the broker: there is no offer, or no such part, any more.
            return self._on_no_offer() if topic == self.topics.round else []
        try:
            if self._fetch and topic in self._fetch.topics:
                return self._on_part(topic, payload, now)
            if topic == self.topics.round:
                offer, header = self.trust.open(payload, topic, Offer, now)
                if header.round != offer.round:
                    raise WireError(reasons.MALFORMED, "header and offer name different rounds")
                return self._on_offer(offer, header.counter, now)
            if topic.endswith("/receipt"):
                receipt, _ = self.trust.open(payload, topic, Receipt, now)
                return self._settle(receipt.delta, False)
            if topic.endswith("/refusal"):
                refusal, _ = self.trust.open(payload, topic, Refusal, now)
                return self._on_refusal(refusal)
        except WireError as error:
            self._count(error)
            return [Note(f"refused a message on {topic}: {error}", "warning")]
        return []

    def _count(self, error: WireError) -> None:
        self.refusals[error.reason] = self.refusals.get(error.reason, 0) + 1

    def _settle(self, delta: bytes, give_back: bool) -> list[Action]:
        if delta not in self._outbox:
            return []
        self._outbox.remove(delta)
        settle = Settle(delta, give_back)
        if not self._outbox:
            self._resend_at = None
            if self.offer is None or self.offer.round <= self.done_round:
                self.phase = f"round {self.done_round} done"
        if len(self._outbox) < IN_FLIGHT or not self.connected:
            return [settle]
        return [settle, Send(self._outbox[IN_FLIGHT - 1])]

    def _on_refusal(self, refusal: Refusal) -> list[Action]:
        if refusal.delta not in self._outbox:
            return []
        self.last_refusal = f"{refusal.reason}: {refusal.detail}"
        # A delta that came too late was not summed: error feedback carries it into the next round.
        late = refusal.reason == reasons.STALE_ROUND
        note = Note(f"the aggregator refused a delta: {self.last_refusal}", "info" if late else "warning")
        return [*self._settle(refusal.delta, late), note]

    # -- offers and parameters

    def _on_offer(self, offer: Offer, counter: int, now: float) -> list[Action]:
        newest = max(self.done_round, self.offer.round if self.offer else -1)
        anew = offer.run != self.run or offer.round < newest
        # Rounds rise within a run, so an earlier one is a replay, unless it was signed after all others: then
        # the aggregator's ledger was brought back from a copy.
        if anew and counter <= self._offered:
            raise WireError(reasons.REPLAYED, f"an older offer, of round {offer.round}, after round {newest}")
        if offer == self.offer and not anew:
            # Said again: an aggregator that was restarted, which may have lost what was on its way.
            self._told = self._told and counter <= self._offered
            self._offered = max(self._offered, counter)
            return self._resend(now, first=True) + self._tell_decline(now)
        self._offered = max(self._offered, counter)
        actions: list[Action] = []
        if self._training is not None and (anew or self._training != offer.round):
            self._training = None
            actions.append(StopTraining())
        if self._fetch:
            actions.append(Unsubscribe(tuple(self._fetch.topics)))
            self._fetch = None
        self.offer, self._attempts, self._ask_at = offer, 0, None
        self._declined, self._told, self._pause = "", False, ASK_AGAIN
        self._bad.clear()
        if anew:
            return actions + self._begin(offer)
        if self._outbox:
            actions += self._resend(now, first=True)
        return actions + self._consider(now)

    def _begin(self, offer: Offer) -> list[Action]:
        """Forget what belongs to another run: nobody counts its rounds any more, nor takes its deltas."""
        known, dropped = bool(self.run), len(self._outbox)
        self.run, self.done_round, self._resend_at = offer.run, -1, None
        self._outbox.clear()
        begin = Begin(offer.run, self._offered)
        if not known:
            return [begin]
        text = f"the aggregator's rounds began anew: this device does too; {dropped} deltas without a receipt"
        return [begin, Note(f"{text} are dropped", "warning")]

    def _on_no_offer(self) -> list[Action]:
        """The aggregator has taken its offer back: it plans no more rounds."""
        if self._fetch is None and self._training is None:
            self.phase = "no round is offered"
        return []

    def _consider(self, now: float) -> list[Action]:
        """The next step towards the current offer's delta."""
        offer = self.offer
        if offer is None or self._training is not None or self._fetch:
            return []
        if offer.round <= self.done_round:
            self.phase = f"round {offer.round} done"
            return []
        if now < self.not_before:
            self._ask_at = self.not_before
            return []
        if offer.family != self.family:
            return self._decline(offer, f"trains another model than this device has ({offer.model})", now)
        if self.held.version != offer.version or self.held.digest != offer.digest:
            return self._start_fetch(offer, now)
        self.phase = f"round {offer.round}: asking the governor"
        return [Ask(offer)]

    def _start_fetch(
        self, offer: Offer, now: float, snapshot: bool = False, why: str = "no way is published"
    ) -> list[Action]:
        path = cheapest_path(offer, None if snapshot else self.held, frozenset(self._bad))
        if path is None:
            if self._bad:
                # The broker's copies may be put right: all of them are asked for again, ever more rarely.
                self._bad.clear()
                self._ask_at = now + self._pause
                self._pause = min(self._pause * 2, RESEND_LAST)
            return self._decline(offer, f"the round's parameters cannot be had: {why}", now)
        topics = {
            self.topics.parameters(artefact.version, artefact.kind, part): (index, part)
            for index, artefact in enumerate(path)
            for part in range(artefact.parts)
        }
        self._fetch = _Fetch(offer, path, topics, [{} for _ in path], now)
        self.phase = f"round {offer.round}: fetching parameters"
        return [Subscribe(tuple(topics))]

    def _on_part(self, topic: str, payload: bytes, now: float) -> list[Action]:
        fetch = self._fetch
        assert fetch is not None
        index, part = fetch.topics[topic]
        fetch.parts[index][part] = payload
        if any(len(parts) < art.parts for parts, art in zip(fetch.parts, fetch.path, strict=True)):
            return []
        done = Unsubscribe(tuple(fetch.topics))
        self._fetch = None
        opened: list[Parameters] = []
        for artefact, parts in zip(fetch.path, fetch.parts, strict=True):
            sealed = b"".join(parts[number] for number in range(artefact.parts))
            try:
                opened.append(self._open(artefact, sealed, now))
            except WireError as error:
                self._count(error)
                self._bad.add(artefact.envelope)
                why = f"{artefact.kind} {artefact.version} is refused: {error}"
                again = self._start_fetch(fetch.offer, now, why=why)
                return [done, Note(f"parameters: {why}", "warning"), *again]
        return [done, Apply(fetch.offer, tuple(opened))]

    def _open(self, artefact: Artefact, sealed: bytes, now: float) -> Parameters:
        if envelope.digest(sealed) != artefact.envelope:
            raise WireError(reasons.BAD_SIGNATURE, "the broker's copy is not what the offer names")
        topic = self.topics.parameters(artefact.version, artefact.kind, 0)
        message, _ = self.trust.open(sealed, topic, Parameters, now)
        return message

    def _on_applied(self, event: Applied, now: float) -> list[Action]:
        self.held = event.held
        offer = self.offer
        if not event.error or offer is None:
            return self._consider(now)
        if self.held.version == offer.version and self.held.digest == offer.digest:
            return self._consider(now)
        self._attempts += 1
        note = Note(f"parameters {offer.version} could not be made: {event.error}", "warning")
        if self._attempts >= MAX_ATTEMPTS:
            return [note, *self._decline(offer, "the parameters do not lead to the offer's base", now)]
        return [note, *self._start_fetch(offer, now, snapshot=True)]

    # -- training

    def _on_permission(self, event: Permission, now: float) -> list[Action]:
        offer = self.offer
        if offer is None or event.round != offer.round or self._training is not None:
            return []
        if not event.allowed:
            self._ask_at = now + ASK_AGAIN
            return self._decline(offer, event.reason, now)
        self._training, self._declined = offer.round, ""
        self.phase = f"round {offer.round}: training"
        return [Train(offer)]

    def _on_trained(self, event: Trained, now: float) -> list[Action]:
        offer = self.offer
        if self._training != event.round or offer is None or offer.round != event.round:
            return []
        self._training = None
        self._counter = max(self._counter + 1, int(now * 1000))
        delta = Delta(
            run=offer.run,
            round=offer.round,
            version=offer.version,
            chain=offer.chain,
            payload=event.payload,
            samples=event.samples,
            before=event.before,
            after=event.after,
            ranges=event.ranges if offer.ranges is not None else None,
        )
        topic = self.topics.up(self.author.subject.name, "delta")
        sealed = self.author.seal(delta, topic, self._counter, round=offer.round, base=offer.digest)
        digest = envelope.digest(sealed)
        self._outbox.append(digest)
        self.done_round = offer.round
        self.phase = f"round {offer.round}: delta in the outbox"
        seed = device_seed(offer.seed, self.author.subject.name)
        commit = CommitDelta(
            offer.round, self._offered, digest, sealed, offer.chain, seed, event.payload, event.residual,
            self._counter,
        )  # fmt: skip
        if not self.connected or len(self._outbox) > IN_FLIGHT:
            return [commit]
        if self._resend_at is None:
            self._resend_after = RESEND_FIRST
            self._resend_at = now + RESEND_FIRST
        return [commit, Send(digest)]

    def _on_failed(self, event: TrainingFailed, now: float) -> list[Action]:
        if self._training != event.round or self.offer is None:
            return []
        self._training = None
        self._attempts += 1
        note = Note(f"training of round {event.round} failed: {event.reason}", "warning")
        if self._attempts < MAX_ATTEMPTS:
            self._ask_at = now + ASK_AGAIN
        return [note, *self._decline(self.offer, f"training failed: {event.reason}", now)]

    def _decline(self, offer: Offer, reason: str, now: float) -> list[Action]:
        self.phase = f"round {offer.round}: not training: {reason}"
        self._declined = reason
        return self._tell_decline(now)

    def _tell_decline(self, now: float) -> list[Action]:
        """Once a connection: on one that broke it may have been lost, and a round waits for the answer."""
        if self.offer is None or not self._declined or self._told or not self.connected:
            return []
        self._told = True
        self._counter = max(self._counter + 1, int(now * 1000))
        topic = self.topics.up(self.author.subject.name, "decline")
        message = Decline(self.offer.round, self._declined[:200])
        return [
            SendDecline(self.author.seal(message, topic, self._counter, round=self.offer.round)),
            Note(f"round {self.offer.round} declined: {self._declined}"),
        ]


def cheapest_path(
    offer: Offer, held: Held | None, without: frozenset[bytes] = frozenset()
) -> tuple[Artefact, ...] | None:
    """The fewest bytes from what is held (or from nothing) to the offer's base, or None.

    Updates go from one version to the next; a snapshot stands for itself. without: envelopes of artefacts
    that are of no use.
    """
    sound = [artefact for artefact in offer.artefacts if artefact.envelope not in without]
    updates = {art.version: art for art in sound if art.kind == "update"}
    starts: list[tuple[int, tuple[Artefact, ...]]] = [
        (art.version, (art,)) for art in sound if art.kind == "snapshot"
    ]
    if held is not None and held.version < offer.version:
        starts.append((held.version, ()))
    best: tuple[Artefact, ...] | None = None
    for start, head in starts:
        steps = range(start + 1, offer.version + 1)
        if start > offer.version or any(step not in updates for step in steps):
            continue
        path = head + tuple(updates[step] for step in steps)
        if path and (best is None or _bytes(path) < _bytes(best)):
            best = path
    return best


def _bytes(path: tuple[Artefact, ...]) -> int:
    return sum(artefact.size for artefact in path)

"""The rounds of one region as a state machine without I/O: what to accept, when to close, when to open.

``handle(event, now)`` returns what is to be done, in order; ``marram_cloud.rounds.service`` (or the
simulation) does it. All that must survive is in the ledger: a coordinator is rebuilt from the open round.

A round closes as soon as every device that is online has answered, or at its deadline if at least
``minimum`` deltas are in; with fewer it stays open for another deadline. A device whose connection broke is
waited for a little longer: most come back at once, with their delta. So a slow device never holds a round,
and a dead one does so for the grace only, from the broker's publishing of its will on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from marram.wire import reasons


@dataclass(frozen=True, slots=True)
class Rules:
    """minimum: deltas that a round needs. deadline: seconds. settle: seconds that a round stays open at
    least, so that devices which connect at the same time as the aggregator are waited for. grace: seconds
    that a device which went offline is still waited for."""

    minimum: int
    deadline: float
    settle: float = 1.0
    grace: float = 5.0


@dataclass(frozen=True, slots=True)
class OpenRound:
    """The current round, as the ledger holds it. accepted: devices whose delta is on disk.

    opened: when it may be offered (Unix s); in the future when rounds have a pace.
    """

    number: int
    version: int
    digest: bytes
    chain: str
    opened: float
    accepted: frozenset[str] = frozenset()


# ---- events ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """A round is in the ledger and may be offered."""

    round: OpenRound


@dataclass(frozen=True, slots=True)
class DeltaCame:
    """A verified, well-formed delta. known: it is in the ledger already (of whatever round).

    last_counter: the highest counter that was accepted from the device.
    """

    device: str
    digest: bytes
    round: int
    base: bytes
    chain: str
    counter: int
    known: bool
    last_counter: int


@dataclass(frozen=True, slots=True)
class DeltaStored:
    """The ledger has committed an accepted delta."""

    device: str
    digest: bytes
    round: int


@dataclass(frozen=True, slots=True)
class Declined:
    device: str
    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Presence:
    """What the broker's retained state (or the device's will) says."""

    device: str
    online: bool


@dataclass(frozen=True, slots=True)
class Barred:
    """A device that may not take part: it is not waited for, grace or not."""

    device: str


@dataclass(frozen=True, slots=True)
class Woke:
    """``wake_at`` has passed."""


Event = Opened | DeltaCame | DeltaStored | Declined | Presence | Barred | Woke


# ---- actions -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publish:
    """Make the artefacts and the offer of this round the retained ones."""

    round: OpenRound


@dataclass(frozen=True, slots=True)
class Store:
    """Check the delta's values; commit it to the ledger; then say DeltaStored."""

    device: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Confirm:
    """Send the signed receipt of a delta that is on disk."""

    device: str
    digest: bytes
    round: int


@dataclass(frozen=True, slots=True)
class Count:
    """Count a message that was not taken, without an answer."""

    device: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Count, and send the signed refusal with its reason."""

    device: str
    digest: bytes
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Close:
    """Sum the round's deltas, commit the next version and the next round; then say Opened."""

    round: OpenRound


Action = Publish | Store | Confirm | Count | Refuse | Close


# ---- the machine -------------------------------------------------------------------------------------


@dataclass
class Coordinator:
    """See the module's docstring."""

    rules: Rules
    round: OpenRound | None = None
    online: set[str] = field(default_factory=set)
    left: dict[str, float] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    deadline: float = 0.0
    _accepted: set[str] = field(default_factory=set)
    _offered: bool = False
    _closing: bool = False

    @property
    def accepted(self) -> frozenset[str]:
        return frozenset(self._accepted)

    @property
    def wake_at(self) -> float | None:
        """When ``Woke`` is due (Unix s), or None."""
        if self.round is None or self._closing:
            return None
        if not self._offered:
            return self.round.opened
        settled = self.round.opened + self.rules.settle
        graces = [left + self.rules.grace for left in self.left.values()]
        if self._all_answered():
            return min(settled, self.deadline)
        return min([*graces, self.deadline])

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event; return what is to be done, in this order."""
        match event:
            case Opened():
                return self._on_opened(event.round, now)
            case DeltaCame():
                return self._on_delta(event)
            case DeltaStored():
                return self._on_stored(event, now)
            case Declined():
                if self.round and event.round == self.round.number:
                    self.declined[event.device] = event.reason
                return self._perhaps_close(now)
            case Presence():
                return self._on_presence(event, now)
            case Barred():
                self.online.discard(event.device)
                self.left.pop(event.device, None)
                return self._perhaps_close(now)
            case Woke():
                return self._on_woke(now)

    def _on_presence(self, event: Presence, now: float) -> list[Action]:
        if event.online:
            self.online.add(event.device)
            self.left.pop(event.device, None)
        elif event.device in self.online:
            self.online.remove(event.device)
            self.left[event.device] = now
        return []

    def _on_opened(self, round: OpenRound, now: float) -> list[Action]:
        self.round, self._closing, self._offered = round, False, False
        self._accepted, self.declined = set(round.accepted), {}
        return self._perhaps_offer(now)

    def _perhaps_offer(self, now: float) -> list[Action]:
        if self.round is None or self._offered or now < self.round.opened:
            return []
        self._offered = True
        # From now and not from ``opened``: the process may have stood still meanwhile.
        self.deadline = now + self.rules.deadline
        return [Publish(self.round), *self._perhaps_close(now)]

    def _on_delta(self, event: DeltaCame) -> list[Action]:
        current = self.round
        open_now = current is not None and event.round == current.number and not self._closing
        if event.known:
            # At-least-once delivery or a replay: it counts once either way, and its receipt is due again.
            confirm = Confirm(event.device, event.digest, event.round)
            detail = f"this delta was taken in round {event.round} already"
            return [confirm] if open_now else [Count(event.device, reasons.REPLAYED, detail), confirm]
        if current is None or not open_now:
            now_open = "none" if current is None or self._closing else str(current.number)
            detail = f"for round {event.round}; open now: {now_open}"
            return [Refuse(event.device, event.digest, reasons.STALE_ROUND, detail)]
        if event.base != current.digest:
            detail = f"round {current.number} starts from other parameters (version {current.version})"
            return [Refuse(event.device, event.digest, reasons.WRONG_BASE, detail)]
        if event.chain != current.chain:
            detail = f"encoded by {event.chain!r}, offered was {current.chain!r}"
            return [Refuse(event.device, event.digest, reasons.WRONG_CHAIN, detail)]
        if event.counter <= event.last_counter or event.device in self._accepted:
            detail = f"counter {event.counter}, the last one taken was {event.last_counter}"
            return [Refuse(event.device, event.digest, reasons.REPLAYED, detail)]
        return [Store(event.device, event.digest)]

    def _on_stored(self, event: DeltaStored, now: float) -> list[Action]:
        self._accepted.add(event.device)
        confirm = Confirm(event.device, event.digest, event.round)
        return [confirm, *self._perhaps_close(now)]

    def _on_woke(self, now: float) -> list[Action]:
        self.left = {device: left for device, left in self.left.items() if now < left + self.rules.grace}
        if not self._offered:
            return self._perhaps_offer(now)
        closing = self._perhaps_close(now)
        if closing or self.round is None or self._closing or now < self.deadline:
            return closing
        if len(self._accepted) >= self.rules.minimum:
            return self._close()
        self.deadline = now + self.rules.deadline
        return []

    def _all_answered(self) -> bool:
        answers, expected = len(self._accepted) + len(self.declined), len(self.online) + len(self.left)
        # Counted first: the sets are compared after every delta, and there may be many devices.
        if len(self._accepted) < self.rules.minimum or answers < expected:
            return False
        return not ((self.online | self.left.keys()) - self._accepted - self.declined.keys())

    def _perhaps_close(self, now: float) -> list[Action]:
        if self.round is None or self._closing or not self._offered or not self._all_answered():
            return []
        return self._close() if now >= self.round.opened + self.rules.settle else []

    def _close(self) -> list[Action]:
        assert self.round is not None
        self._closing = True
        return [Close(self.round)]

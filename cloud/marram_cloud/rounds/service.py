"""The aggregator at work: messages in batches through the coordinator into the ledger, then the answers.

Everything that a batch changes is one transaction; only after it has been committed is anything sent
(commit, then tell). When the transaction fails, the coordinator is rebuilt from the ledger and the devices,
which have no receipt, send again. The service knows no socket and no clock: it is given messages and the
time, and calls ``send``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from cryptography import x509
from marram.bundle.file import Bundle
from marram.bundle.forest import Layout
from marram.errors import MarramError, WireError
from marram.wire import envelope, reasons
from marram.wire.codec.chain import Chain
from marram.wire.messages import (
    Artefact,
    Decline,
    Delta,
    Offer,
    Parameters,
    RangesAsked,
    Receipt,
    Refusal,
    Report,
)
from marram.wire.parameters import Vector, advance, parameters_digest
from marram.wire.ranges import decode
from marram.wire.revocation import RevocationList
from marram.wire.signed import Author, read
from marram.wire.topics import Topics

from marram_cloud.engines.engine import Engine
from marram_cloud.ledger.ledger import Ledger, Round, StoredDelta, Version
from marram_cloud.presence import read_state
from marram_cloud.rounds import coordinator as machine
from marram_cloud.rounds.coordinator import Coordinator, OpenRound
from marram_cloud.rounds.intake import Reassembly, Verified, check_claims, verify
from marram_cloud.rounds.introduction import introduced
from marram_cloud.rounds.merging import ForestMerging, Merged, Merging, VectorMerging
from marram_cloud.rounds.settings import RoundSettings
from marram_cloud.strategies.forest import Forest

log = logging.getLogger(__name__)

Send = Callable[[str, bytes, bool], None]
Reported = Callable[[str, Report, int, float], None]
_RETRY = 10.0
_STRANGERS = 4096
UNKNOWN = "(unknown)"


@dataclass(frozen=True)
class Model:
    """The model whose parameters are learnt: name, family and initial parameters of its bundle.

    calibrate: sha256 of its program that measures ranges, and how many activations those are of. forest: how
    its parameters are one, where they are.
    """

    name: str
    family: str
    initial: Vector
    calibrate: tuple[bytes, int] | None = None
    forest: Layout | None = None

    @staticmethod
    def of(bundle: Bundle) -> Model:
        """Raises BundleError when the bundle's parameters cannot be read."""
        manifest = bundle.manifest
        program, calibrate = manifest.programs.get("calibrate"), None
        if program is not None and manifest.int8 is not None:
            calibrate = bytes.fromhex(manifest.members[program.file]), len(manifest.int8.activations)
        forest = Layout.of(manifest) if manifest.forest else None
        return Model(manifest.name, manifest.family, bundle.parameters(), calibrate, forest)


def _nothing(device: str, report: Report, counter: int, now: float) -> None:
    """Reports serve to introduce devices only."""


@dataclass
class Service:
    """One region's aggregator. ``send(topic, payload, retain)`` is called after each commit.

    authority: the fleet's certificate; whom it certified for this region may take part.
    reported: called with (device, report, counter of its header, now) for every report that was verified,
    also an older one that came again; inside the transaction of its batch.
    """

    ledger: Ledger
    author: Author
    topics: Topics
    model: Model
    settings: RoundSettings
    engine: Engine
    send: Send
    authority: x509.Certificate
    reported: Reported = _nothing
    part_size: int = field(init=False)
    _merging: Merging = field(init=False)
    _coordinator: Coordinator = field(init=False)
    _reassembly: Reassembly = field(init=False)
    _deltas: dict[bytes, tuple[Verified, Delta]] = field(default_factory=dict)
    _outgoing: list[tuple[str, bytes, bool]] = field(default_factory=list)
    _run: bytes = b""
    _counter: int = 0
    _again_at: float | None = None
    _revocations: RevocationList | None = None
    # Who said that it is online before it was known: a device's state may come before its report.
    _strangers: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._merging = self._make_merging()
        self._coordinator = Coordinator(self.settings.rules)
        self._reassembly = Reassembly(self.settings.max_delta)
        self.part_size = self.settings.part_size

    def _make_merging(self) -> Merging:
        """Raises MarramError where the rule is not one for this model."""
        settings, model = self.settings, self.model
        if isinstance(settings.strategy, Forest):
            if model.forest is None:
                raise MarramError(f"rounds.strategy: forest is not for {model.name!r}, which is no forest")
            return ForestMerging(self.ledger, settings.strategy, model.forest)
        if model.forest is not None:
            raise MarramError(
                f"rounds.strategy: {model.name!r} is a forest; expected {{type: forest}}: trees have no mean"
            )
        size = model.initial.shape[0]
        return VectorMerging(self.ledger, self.engine, settings.strategy, size, settings.max_norm)

    @property
    def wake_at(self) -> float | None:
        """When ``wake`` is due (Unix s), or None."""
        return self._coordinator.wake_at if self._again_at is None else self._again_at

    @property
    def coordinator(self) -> Coordinator:
        """For the status: who is online, who has answered."""
        return self._coordinator

    def subscriptions(self) -> tuple[str, ...]:
        """Reports first: what a device says is believed once it is known."""
        topics = self.topics
        return (
            topics.report("+"), topics.state("+"), topics.up("+", "delta"), topics.up("+", "decline"),
        )  # fmt: skip

    # ---- what happens

    def start(self, now: float) -> None:
        """Begin, or go on where the ledger says; call again to rebuild after an error."""
        before = self._coordinator
        self._coordinator = Coordinator(self.settings.rules, online=before.online, left=before.left)
        self._deltas.clear()
        with self.ledger.transaction():
            self._run = self.ledger.run()
            self._honour_revocations(now)
            self._begin_if_new(now)
            self._open_if_none(now)
            current = self.ledger.current_round()
            if current is not None:
                self._handle(machine.Opened(self._open_round(current)), now)
        self._flush()

    def connected(self, now: float, max_payload: int | None = None) -> None:
        """The link is up: make the broker's retained messages what the ledger says.

        max_payload: bytes of the largest message that the broker takes; parts shrink to it.
        """
        self.part_size = min(self.settings.part_size, max_payload or self.settings.part_size)
        self._queue_revocations()
        for topic in self.ledger.withdrawn():
            self._queue(topic, b"", retain=True)
        for artefact in self._artefacts():
            self._queue_artefact(artefact)
        current = self.ledger.current_round()
        if current is None:
            self._queue_offer_off()
        elif current.opened <= now:
            self._queue_offer(current, now)
        self._flush()

    def take(self, messages: Sequence[tuple[str, bytes]], now: float) -> None:
        """A batch of messages, in the order of their arrival; committed as one, then answered."""

        if self._again_at is not None:
            self._rebuild(now)
        if self._again_at is not None:
            return  # without a ledger nothing can be answered; devices will send it again

        def work() -> None:
            for topic, payload in messages:
                self._message(topic, payload, now)

        self._transact(work, now)

    def wake(self, now: float) -> None:
        """``wake_at`` has passed."""
        if self._again_at is not None:
            self._rebuild(now)
            return
        self._transact(lambda: self._handle(machine.Woke(), now), now)

    def revoke(self, revocations: RevocationList, now: float) -> None:
        """The authority's list: publish it, and refuse from now on whom it names. An older one is ignored."""
        newest = self.ledger.fact("revocations") or 0
        assert isinstance(newest, int)
        if revocations.number < newest:
            log.warning(
                "the list of revoked certificates is number %d, but number %d was honoured here before; "
                "it is ignored: bring the newest one from the fleet's folder", revocations.number, newest,
            )  # fmt: skip
            return
        self._revocations = revocations
        self._transact(lambda: self._honour_revocations(now), now)

    def _honour_revocations(self, now: float) -> None:
        if self._revocations is not None:
            self.ledger.set_fact("revocations", self._revocations.number)
            self.ledger.revoke(self._revocations.serials, now)
            self._bar_untrusted(now)
            self._queue_revocations()

    def _transact(self, work: Callable[[], None], now: float) -> None:
        try:
            with self.ledger.transaction():
                work()
        except MarramError as error:
            log.error("nothing of a batch was taken: %s; devices will send it again", error)
            self._outgoing.clear()
            self._rebuild(now)
            return
        self._flush()

    def _rebuild(self, now: float) -> None:
        """Begin again from the ledger; where not even that can be done (a full disk), try again later."""
        try:
            self.start(now)
            self._again_at = None
        except MarramError as error:
            log.error("rounds stand still until the ledger can be used: %s", error)
            self._outgoing.clear()
            self._coordinator.round = None
            self._again_at = now + _RETRY

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        for topic, payload, retain in outgoing:
            self.send(topic, payload, retain)

    # ---- messages

    def _message(self, topic: str, payload: bytes, now: float) -> None:
        sender = self.topics.device_of(topic)
        if sender is None:
            return
        if topic == self.topics.state(sender):
            state = read_state(payload)
            self._presence(sender, state.online and state.learning, now)
            return
        if topic == self.topics.report(sender):
            self._report(sender, payload, now)
            return
        try:
            message = self._reassembly.add(topic, payload)
        except WireError as error:
            self._count(sender, error.reason, str(error), now)
            return
        if message is None:
            return
        try:
            verified = verify(
                self.ledger, self.topics.fleet, topic, sender, message, self.settings.max_delta, now
            )
            if topic == self.topics.up(sender, "delta"):
                self._delta(verified, now)
            else:
                decline = read(verified.sealed, Decline)
                self._handle(machine.Declined(sender, decline.round, decline.reason), now)
        except WireError as error:
            if error.reason == reasons.BAD_SIGNATURE:
                # Not answered: nobody who signed it asks, and a delta moved to another topic by somebody
                # else must not make its device believe that it was refused.
                self._count(sender, error.reason, str(error), now)
            else:
                self._refuse(sender, envelope.digest(message), error.reason, str(error), now)

    def _presence(self, device: str, online: bool, now: float) -> None:
        self._strangers.pop(device, None)
        if self.ledger.trusts(device, now):
            self._handle(machine.Presence(device, online), now)
            return
        if online:
            self._strangers[device] = None
            if len(self._strangers) > _STRANGERS:
                del self._strangers[next(iter(self._strangers))]
        self._handle(machine.Barred(device), now)

    def _report(self, sender: str, payload: bytes, now: float) -> None:
        """Learn who a device is. Refusals are counted only: a device does not wait for an answer to it."""
        if not payload:
            return
        try:
            found = introduced(self.authority, self.topics, sender, payload, now)
            if self.ledger.is_revoked(found.certificate):
                raise WireError(reasons.REVOKED, f"the certificate of {sender} was revoked")
        except WireError as error:
            self._count(sender, error.reason, str(error), now)
            return
        self.ledger.add_device(sender, found.certificate, now)
        if sender in self._strangers:
            self._presence(sender, True, now)
        self.reported(sender, found.report, found.counter, now)

    def _delta(self, verified: Verified, now: float) -> None:
        header, delta = verified.sealed.header, read(verified.sealed, Delta)
        check_claims(delta, self.settings.max_windows)
        if delta.run != self._run:
            # Perhaps the ledger that it belonged to was lost; the device hears of it with the next offer.
            raise WireError(reasons.STALE_ROUND, f"for round {delta.round} of another run than this ledger's")
        if header.round != delta.round:
            raise WireError(reasons.MALFORMED, "header and delta name different rounds")
        self._deltas[verified.digest] = verified, delta
        came = machine.DeltaCame(
            device=verified.device.name,
            digest=verified.digest,
            round=delta.round,
            base=header.base or b"",
            chain=delta.chain,
            counter=header.counter,
            known=self.ledger.knows_delta(verified.digest),
            last_counter=verified.device.counter,
        )
        try:
            self._handle(came, now)
        finally:
            self._deltas.pop(verified.digest, None)

    # ---- what the coordinator wants done

    def _handle(self, event: machine.Event, now: float) -> None:
        for action in self._coordinator.handle(event, now):
            match action:
                case machine.Store():
                    self._store(action, now)
                case machine.Confirm():
                    self._queue_receipt(action, now)
                case machine.Count():
                    self._count(action.device, action.reason, action.detail, now)
                case machine.Refuse():
                    self._refuse(action.device, action.digest, action.reason, action.detail, now)
                case machine.Publish():
                    self._publish(action.round, now)
                case machine.Close():
                    self._close(action.round, now)

    def _store(self, action: machine.Store, now: float) -> None:
        verified, delta = self._deltas[action.digest]
        current = self.ledger.current_round()
        assert current is not None
        self._merging.judge(current, action.device, delta)
        ranges = self._checked_ranges(current, delta)
        stored = StoredDelta(
            round=delta.round,
            device=action.device,
            digest=action.digest,
            samples=delta.samples,
            before=delta.before,
            after=delta.after,
            size=verified.size,
            counter=verified.sealed.header.counter,
            payload=delta.payload,
        )
        self.ledger.add_delta(stored, now)
        if current.ranges is not None and ranges is not None:
            self.ledger.add_ranges(current.version, action.device, current.ranges.program, *ranges)
        self._handle(machine.DeltaStored(action.device, action.digest, delta.round), now)

    def _checked_ranges(
        self, round: Round, delta: Delta
    ) -> tuple[np.typing.NDArray[np.float64], np.typing.NDArray[np.float64]] | None:
        """(minimum, maximum) of a delta that tells ranges. Raises WireError(BAD_VALUES)."""
        told, asked, known = delta.ranges, round.ranges, self.model.calibrate
        if told is None:
            return None
        if asked is None or known is None:
            raise WireError(reasons.BAD_VALUES, "tells ranges that were not asked for")
        return decode(told, known[1], asked.limit)

    def _close(self, open_round: OpenRound, now: float) -> None:
        """Sum, step, encode, commit the next version and open the next round."""
        current = self.ledger.current_round()
        latest = self.ledger.latest_version()
        assert current is not None and latest is not None and current.number == open_round.number
        merged = self._merging.merge(current, latest)
        self.ledger.close_round(current.number, now, merged.count, merged.weight)
        version = self._next_version(latest, merged, now)
        log.info(
            "round %d closed: %d deltas, %d windows; parameters are version %d",
            current.number, merged.count, merged.weight, version,
        )  # fmt: skip
        self.ledger.forget_payloads(current.number + 1 - self.settings.keep_payloads)
        self.ledger.forget_versions(version - self.settings.keep_versions)
        if self.settings.limit is not None and current.number + 1 >= self.settings.limit:
            self._coordinator.round = None
            self._queue_offer_off()
            return
        opened = max(now, current.opened + self.settings.every)
        following = self._new_round(current.number + 1, version, opened)
        self.ledger.open_round(following)
        self._handle(machine.Opened(self._open_round(following)), now)

    def _next_version(self, latest: Version, merged: Merged, now: float) -> int:
        version = latest.version + 1
        if self._merging.whole:
            parameters = merged.parameters.astype(np.float32)
            self.ledger.add_version(version, parameters, merged.parameters, merged.state, now)
        else:
            parameters = self._add_update(latest, version, merged, now)
        if self._merging.whole or version % self.settings.snapshot_every == 0:
            self._add_snapshot(version, parameters, now)
            gone = [
                self.topics.parameters(old.version, old.kind, part)
                for old in self.ledger.drop_artefacts(version - 1)
                for part in range(max(old.parts, self._parts(old.size)))
            ]
            self.ledger.withdraw(gone)
            for topic in gone:
                self._queue(topic, b"", retain=True)
        return version

    def _add_update(self, latest: Version, version: int, merged: Merged, now: float) -> Vector:
        """What devices hold after it: it leaves out what is kept for the next one."""
        chain, seed = self.settings.update_chain, _seed(self.model.family, version)
        change = (merged.parameters - latest.parameters).astype(np.float32)
        payload = Chain.parse(chain).encode(change, seed).payload
        parameters = advance(latest.parameters, "update", chain, payload, seed)
        self.ledger.add_version(version, parameters, merged.parameters, merged.state, now)
        digest = parameters_digest(parameters)
        self._add_artefact(Parameters(version, "update", chain, seed, payload, digest), now)
        return parameters

    # ---- rounds and artefacts

    def _begin_if_new(self, now: float) -> None:
        family = self.ledger.fact("family")
        if family is not None and family != self.model.family:
            raise MarramError(
                f"this ledger holds another model's parameters than bundle {self.model.name!r}; "
                "give the aggregator a new state folder, or the bundle that it began with"
            )
        if self.ledger.latest_version() is not None:
            return
        initial = self.model.initial
        self.ledger.set_fact("family", self.model.family)
        self.ledger.add_version(0, initial, initial.astype(np.float64), None, now)
        self._add_snapshot(0, initial, now)
        self.ledger.open_round(self._new_round(0, 0, now))

    def _open_if_none(self, now: float) -> None:
        """Go on after the last round when the limit was raised."""
        rounds, latest = self.ledger.rounds(1), self.ledger.latest_version()
        if self.ledger.current_round() is not None or not rounds or latest is None:
            return
        number = rounds[0].number + 1
        if self.settings.limit is None or number < self.settings.limit:
            self.ledger.open_round(self._new_round(number, latest.version, now))

    def _new_round(self, number: int, version: int, opened: float) -> Round:
        seed = _seed(self.model.family + self.author.subject.region, number)
        ranges = None
        if self.model.calibrate is not None and self.settings.ranges_limit is not None:
            ranges = RangesAsked(self.model.calibrate[0], self.settings.ranges_limit)
        return Round(number, version, self.settings.chain, seed, self.settings.steps, opened, ranges=ranges)

    def _open_round(self, round: Round) -> OpenRound:
        accepted = frozenset(device for device, _ in self.ledger.delta_devices(round.number))
        digest = self.ledger.version_digest(round.version)
        return OpenRound(round.number, round.version, digest, round.chain, round.opened, accepted)

    def _add_snapshot(self, version: int, parameters: Vector, now: float) -> None:
        payload = Chain.parse("float32").encode(parameters, 0).payload
        digest = parameters_digest(parameters)
        self._add_artefact(Parameters(version, "snapshot", "float32", 0, payload, digest), now)

    def _add_artefact(self, message: Parameters, now: float) -> None:
        topic = self.topics.parameters(message.version, message.kind, 0)
        sealed = self.author.seal(message, topic, self._next_counter(now))
        parts = self._parts(len(sealed))
        artefact = Artefact(message.version, message.kind, envelope.digest(sealed), len(sealed), parts)
        self.ledger.add_artefact(artefact, sealed)

    def _artefacts(self) -> list[Artefact]:
        """The artefacts in as many parts as the broker of now makes necessary."""
        return [
            msgspec.structs.replace(artefact, parts=self._parts(artefact.size))
            for artefact in self.ledger.artefacts()
        ]

    def _parts(self, size: int) -> int:
        return -(-size // self.part_size)

    def _publish(self, round: OpenRound, now: float) -> None:
        self._bar_untrusted(now)
        for artefact in self._artefacts():
            if artefact.version == round.version:
                self._queue_artefact(artefact)
        current = self.ledger.current_round()
        assert current is not None
        self._queue_offer(current, now)

    def _bar_untrusted(self, now: float) -> None:
        """Wait for nobody whose certificates have all ended or were revoked."""
        for name in sorted(self._coordinator.online):
            if not self.ledger.trusts(name, now):
                self._handle(machine.Barred(name), now)

    # ---- answers

    def _queue_revocations(self) -> None:
        if self._revocations is not None:
            self._queue(self.topics.revoked, self._revocations.der, retain=True)

    def _queue(self, topic: str, payload: bytes, retain: bool) -> None:
        self._outgoing.append((topic, payload, retain))

    def _queue_artefact(self, artefact: Artefact) -> None:
        sealed = self.ledger.sealed_artefact(artefact)
        for part in range(artefact.parts):
            piece = sealed[part * self.part_size : (part + 1) * self.part_size]
            self._queue(self.topics.parameters(artefact.version, artefact.kind, part), piece, retain=True)

    def _queue_offer(self, round: Round, now: float) -> None:
        offer = Offer(
            run=self._run,
            round=round.number,
            model=self.model.name,
            family=self.model.family,
            version=round.version,
            digest=self.ledger.version_digest(round.version),
            chain=round.chain,
            seed=round.seed,
            steps=round.steps,
            minimum=self.settings.minimum_samples,
            artefacts=tuple(self._artefacts()),
            ranges=round.ranges,
        )
        counter = self._next_counter(now)
        sealed = self.author.seal(offer, self.topics.round, counter, round=round.number, introduce=True)
        self._queue(self.topics.round, sealed, retain=True)

    def _queue_offer_off(self) -> None:
        self._queue(self.topics.round, b"", retain=True)

    def _queue_receipt(self, action: machine.Confirm, now: float) -> None:
        topic = self.topics.down(action.device, "receipt")
        message = Receipt(action.round, action.digest)
        self._queue(topic, self.author.seal(message, topic, self._next_counter(now)), retain=False)

    def _refuse(self, device: str, digest: bytes, reason: str, detail: str, now: float) -> None:
        self._count(device, reason, detail, now)
        if reason in (reasons.REVOKED, reasons.EXPIRED) and not self.ledger.trusts(device, now):
            self._handle(machine.Barred(device), now)
        topic = self.topics.down(device, "refusal")
        message = Refusal(digest, reason, detail[:500])
        self._queue(topic, self.author.seal(message, topic, self._next_counter(now)), retain=False)

    def _count(self, device: str, reason: str, detail: str, now: float) -> None:
        # Quoted: a device may have chosen some of it, and must not write lines of this log.
        log.info("refused a message of %.80s: %s: %r", device, reason, detail)
        # Names that nobody enrolled are free to invent: they share one line of the ledger.
        name = device if self.ledger.knows_device(device) else UNKNOWN
        self.ledger.count_refusal(name, reason, detail[:500], now)

    def _next_counter(self, now: float) -> int:
        self._counter = max(self._counter + 1, int(now * 1000))
        return self._counter


def _seed(label: str, number: int) -> int:
    """A seed of 53 bits that an aggregator restarted in mid-round finds again."""
    return int.from_bytes(hashlib.sha256(f"{label}/{number}".encode()).digest()[:8], "big") >> 11

"""The running aggregator: the link's messages in batches to the service, its answers to the broker."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from marram.bundle.file import read
from marram.errors import MarramError, StorageError, WireError
from marram.link.broker import Broker
from marram.link.identity import Identity
from marram.link.identity import load as load_identity
from marram.link.mqtt import Down, LinkEvent, Message, MqttLink, Options, Up
from marram.notify import notify
from marram.storage import hold_folder, open_database
from marram.wire import certificates, envelope, reasons
from marram.wire.messages import Report
from marram.wire.signed import MAX_ENVELOPE, Author
from marram.wire.topics import Topics

from marram_cloud.config.schema import Aggregator
from marram_cloud.engines.local import LocalEngine
from marram_cloud.ledger import ledger as ledgers
from marram_cloud.ledger.ledger import Ledger
from marram_cloud.ledger.migrate import migrate
from marram_cloud.presence import read_state
from marram_cloud.releases.online.reports import open_reports
from marram_cloud.releases.online.service import ReleaseService
from marram_cloud.releases.rollout.store import RolloutStore
from marram_cloud.retained import Retained
from marram_cloud.revocations import RevocationFile
from marram_cloud.rounds.service import UNKNOWN, Model, Service

log = logging.getLogger(__name__)

_BATCH = 256
# More than that waits at the broker: a flood of deltas must not fill this process's memory.
_RECEIVE_MAXIMUM = 256
_IDLE = 5.0
_AGAIN, _RESTORE_AGAIN = 0.5, 1.0
# Looking whether another process changed the repository costs one stat.
_LOOK = 0.5
# Blocks on their way to the broker at a time, and sent between two looks at what came: rounds go first.
_BLOCKS_WAITING, _BLOCKS_TURN, _BLOCKS_PAUSE = 1 << 20, 256 << 10, 0.005


def open_ledger(config: Aggregator) -> Ledger:
    """Raises StorageError when it is damaged: enrolment, revocations and counters must not begin anew."""
    path = config.state / "ledger.db"
    database = open_database(path, ledgers.SCHEMA, anew=False)
    try:
        migrate(database)
    except StorageError as error:
        database.close()
        raise StorageError(f"{path}: {error}") from error
    return Ledger(database)


def open_link(
    config: Aggregator, identity: Identity, name: str, listener: Callable[[LinkEvent], None]
) -> MqttLink:
    """A connection to the region's broker as the aggregator.

    Every session is a new one: devices send again whatever they have no receipt for, and brokers differ in
    what a resumed session brings (rumqttd leaves retained messages out).
    """
    options = Options(
        client_id=f"{identity.subject.region}-{name}",
        receive_maximum=_RECEIVE_MAXIMUM,
        tls=identity.tls(),
    )
    return MqttLink(Broker.parse(config.broker.url), options, listener)


class Runner:
    """Runs until ``stop``. Everything but the link's own thread happens in the caller of ``run``."""

    def __init__(self, config: Aggregator) -> None:
        self._events: queue.SimpleQueue[LinkEvent | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._owed: dict[str, bytes] = {}
        self._retained = Retained()
        self._max_payload = 0
        self._restore = False
        self._published = 0.0
        self._hold = hold_folder(config.state, "aggregator")
        self._ledger = open_ledger(config)
        identity = load_identity(config.broker.identity, role="aggregator")
        bundle = read(config.bundle)
        manifest = bundle.manifest
        if not manifest.trainable:
            raise MarramError(f"{config.bundle}: has no 'train' program, so there is nothing to learn")
        self._topics = Topics(identity.subject.fleet, identity.subject.region)
        self._key = certificates.public_key(identity.certificate)
        self._link = open_link(config, identity, "aggregator", self._events.put)
        author = Author(identity.subject, identity.signer, (certificates.der(identity.certificate),))
        self._releases = self._release_service(config)
        self._service = Service(
            ledger=self._ledger,
            author=author,
            topics=self._topics,
            model=Model.of(bundle),
            settings=config.rounds.settings(),
            engine=LocalEngine(),
            send=self._send,
            authority=identity.authority,
            reported=self._reported,
        )
        self._revocations = RevocationFile(config.crl, identity.authority) if config.crl else None

    def _release_service(self, config: Aggregator) -> ReleaseService | None:
        if config.releases is None:
            return None
        repository = config.releases.online_repository()
        repository.layout.load()
        reports = open_reports(config.state)
        limits = config.releases.limits()
        return ReleaseService(RolloutStore(repository), reports, self._topics, limits, self._send)

    def stop(self) -> None:
        """Ask for the end; may be called from a signal handler."""
        self._stop.set()
        self._events.put(None)

    def run(self) -> None:
        """Live."""
        self._service.start(time.time())
        self._look_for_revocations()
        self._link.start()
        notify(READY="1")
        while not self._stop.is_set():
            self._turn()
        self._link.stop()
        self._ledger.database.close()
        if self._releases is not None:
            self._releases.reports.database.close()
        self._hold.close()

    def _turn(self) -> None:
        """Wait for something; take in what has come by then as one batch."""
        self._look_for_revocations()
        wake = self._service.wake_at
        timeout = _IDLE if wake is None else min(max(wake - time.time(), 0.0), _IDLE)
        if self._owed or self._restore:
            timeout = min(timeout, _AGAIN)
        if self._releases is not None:
            timeout = min(timeout, self._serve_blocks(self._releases))
        messages: list[Message] = []
        try:
            event = self._events.get(timeout=timeout)
            while True:
                if isinstance(event, Message):
                    messages.append(event)
                elif event is not None:
                    self._link_changed(event)
                if len(messages) >= _BATCH:
                    break
                event = self._events.get_nowait()
        except queue.Empty:
            pass
        self._take(messages)
        wake = self._service.wake_at
        if wake is not None and time.time() >= wake:
            self._service.wake(time.time())
        if self._releases is not None:
            self._releases.look(time.time())
        self._pay()
        if self._restore and time.monotonic() - self._published >= _RESTORE_AGAIN:
            self._publish_all()

    def _take(self, messages: list[Message]) -> None:
        if not messages:
            return
        batch = [(message.topic, message.payload) for message in messages]
        of_devices = [one for one in batch if self._topics.device_of(one[0])]
        fetch = self._topics.up("+", "fetch").partition("+")[2]
        self._service.take([one for one in of_devices if not one[0].endswith(fetch)], time.time())
        if self._releases is not None:
            self._take_for_releases(self._releases, of_devices)
        self._guard([one for one in batch if not self._topics.device_of(one[0])])
        # The broker may forget them only now that they are in the ledger.
        for message in messages:
            message.done()

    def _reported(self, device: str, report: Report, counter: int, now: float) -> None:
        if self._releases is not None:
            self._releases.take_report(device, report, counter, now)

    def _serve_blocks(self, releases: ReleaseService) -> float:
        """Send some of what devices fetch; seconds until there is a reason to look again."""
        room = min(_BLOCKS_TURN, _BLOCKS_WAITING - self._link.waiting)
        if room > 0 and not releases.serve(room):
            return _LOOK
        return _BLOCKS_PAUSE if releases.blocks.waiting else _LOOK

    def _take_for_releases(self, releases: ReleaseService, batch: list[tuple[str, bytes]]) -> None:
        """Who is online, and who fetches what."""
        for topic, payload in batch:
            device = self._topics.device_of(topic) or ""
            if topic == self._topics.state(device):
                online = read_state(payload).online and self._ledger.trusts(device, time.time())
                releases.presence(device, online)
            elif topic == self._topics.up(device, "fetch"):
                try:
                    if not self._ledger.trusts(device, time.time()):
                        raise WireError(reasons.UNKNOWN_DEVICE, "fetches without being known here")
                    releases.fetch(device, payload)
                except WireError as error:
                    self._count_refusal(UNKNOWN, error.reason, f"{device}: {error}")

    def _count_refusal(self, device: str, reason: str, detail: str) -> None:
        try:
            with self._ledger.transaction():
                self._ledger.count_refusal(device, reason, detail[:500], time.time())
        except StorageError as error:
            log.error("a refused message was not counted: %s", error)

    def _look_for_revocations(self) -> None:
        revocations = self._revocations.news() if self._revocations is not None else None
        if revocations is not None:
            self._service.revoke(revocations, time.time())

    def _link_changed(self, event: Up | Down) -> None:
        if isinstance(event, Down):
            log.warning("the link is down: %s", event.reason)
            for lost in event.unacknowledged:
                if lost.retain:
                    self._owed.setdefault(lost.topic, lost.payload)
            return
        self._link.subscribe(self._service.subscriptions())
        self._link.watch(self._topics.aggregators())
        if self._releases is not None:
            self._link.subscribe(self._releases.subscriptions())
            self._releases.max_payload = event.max_payload
        self._max_payload = event.max_payload
        self._publish_all()

    def _publish_all(self) -> None:
        """Make what the broker keeps what the ledger says."""
        self._restore, self._published = False, time.monotonic()
        self._service.connected(time.time(), self._max_payload)
        if self._releases is not None:
            self._releases.connected(time.time())

    def _guard(self, messages: list[tuple[str, bytes]]) -> None:
        """Messages on the aggregator's own topics: count others', and put right what the broker keeps."""
        if not messages:
            return
        for topic, payload in messages:
            if self._retained.knows(topic, payload) or self._signed_here(topic, payload):
                continue
            if topic in self._retained:
                log.warning("somebody else wrote on %s; is the broker open to all?", topic)
                self._count_refusal(UNKNOWN, reasons.WRONG_SENDER, f"wrote on {topic}")
                self._restore = True
            elif payload:
                log.info("nothing belongs on %s: it is taken off the broker", topic)
                self._send(topic, b"", True)

    def _signed_here(self, topic: str, payload: bytes) -> bool:
        """Whether this is an offer of this aggregator, of an earlier life perhaps."""
        if topic != self._topics.round:
            return False
        try:
            envelope.verify(envelope.parse(payload, MAX_ENVELOPE), topic, self._key)
        except WireError:
            return False
        return True

    def _send(self, topic: str, payload: bytes, retain: bool) -> None:
        """Retained messages are owed until the broker has them; others the device asks for again."""
        if retain:
            self._retained.note(topic, payload)
        sent = self._link.publish(topic, payload, retain)
        self._owed.pop(topic, None)
        if retain and not sent and len(payload) <= self._link.max_payload:
            self._owed[topic] = payload

    def _pay(self) -> None:
        """Send what is owed, in its order, as far as the link takes it."""
        for topic, payload in list(self._owed.items()):
            if not self._link.publish(topic, payload, retain=True):
                return
            del self._owed[topic]

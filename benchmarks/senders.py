"""Many simulated devices: enrolled for real, their sealed deltas published over a few connections.

They train nothing; what they say is random, but signed, encoded by the offer's chain and sent in frames as
a device does it.
"""

from __future__ import annotations

import queue
import threading
import time
from types import TracebackType

import numpy as np
from cryptography import x509
from marram.link.broker import Broker
from marram.link.mqtt import LinkEvent, Message, MqttLink, Options, Up
from marram.wire import certificates, chunks
from marram.wire.certificates import Subject
from marram.wire.codec.chain import Chain
from marram.wire.codec.seed import device_seed
from marram.wire.envelope import KeySigner
from marram.wire.messages import Delta, Metrics, Offer
from marram.wire.signed import AggregatorTrust, Author
from marram.wire.topics import Topics
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.files import FleetFolder
from marram_cloud.ledger.ledger import Ledger

_CONNECTIONS = 4
_PATIENCE = 120.0
_MEASURED = Metrics(100, 1.5, 0.5)


def enrol(fleet: FleetFolder, ledger: Ledger, count: int) -> list[Author]:
    """``count`` devices, with keys that are kept in memory only."""
    about, issuer = fleet.fleet, authority.load(fleet.path)
    authors = []
    with ledger.transaction():
        for number in range(count):
            subject, key = Subject(about.fleet, about.region, "device", f"d{number:05}"), authority.new_key()
            certificate = issuer.issue(subject, key.public_key())
            der = certificates.der(certificate)
            ledger.add_device(subject.name, certificate, time.time())
            authors.append(Author(subject, KeySigner(key, der), (der,)))
    return authors


class Senders:
    """``with Senders(...) as senders``: connected, and every device known to the broker as online.

    authority: the fleet's certificate, below which offers are believed. size: parameters of the model.
    """

    def __init__(
        self, broker: str, devices: list[Author], authority: x509.Certificate, topics: Topics, size: int
    ) -> None:
        self._devices, self._topics = devices, topics
        self._trust = AggregatorTrust(authority, topics.fleet, topics.region)
        self._random = np.random.default_rng(0)
        self._size = size
        self._counter = int(time.time() * 1000)
        self._offers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._up = threading.Semaphore(0)
        self._links = [
            MqttLink(Broker.parse(broker), Options(client_id=f"senders-{number}"), self._on_event)
            for number in range(_CONNECTIONS)
        ]

    def __enter__(self) -> Senders:
        for link in self._links:
            link.start()
        for _ in self._links:
            assert self._up.acquire(timeout=_PATIENCE), "the broker does not answer"
        kinds = (self._topics.down("+", "receipt"), self._topics.down("+", "refusal"))
        self._links[0].subscribe((self._topics.round, *kinds))
        self._publish([(self._topics.state(one.subject.name), b'{"online":true}') for one in self._devices])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self._links:
            link.stop()

    def next_offer(self, after: int = -1) -> Offer:
        """Wait for the offer of a round after that number."""
        while True:
            payload = self._offers.get(timeout=_PATIENCE)
            offer, _ = self._trust.open(payload, self._topics.round, Offer, time.time())
            if offer.round > after:
                return offer

    def seal(self, offer: Offer) -> list[tuple[str, bytes]]:
        """Every device's delta for this offer: (topic, frame)."""
        chain, frames = Chain.parse(offer.chain), []
        for device in self._devices:
            name = device.subject.name
            vector = self._random.normal(0, 0.01, self._size).astype(np.float32)
            payload = chain.encode(vector, device_seed(offer.seed, name)).payload
            samples = int(self._random.integers(50, 500))
            delta = Delta(
                offer.run, offer.round, offer.version, offer.chain, payload, samples, _MEASURED, _MEASURED
            )
            self._counter += 1
            topic = self._topics.up(name, "delta")
            sealed = device.seal(delta, topic, self._counter, round=offer.round, base=offer.digest)
            frames += [(topic, frame) for frame in chunks.split(sealed)]
        return frames

    def send(self, frames: list[tuple[str, bytes]]) -> None:
        """All of them, as fast as the broker takes them."""
        for number, (topic, frame) in enumerate(frames):
            assert self._links[number % _CONNECTIONS].publish(topic, frame), "the link is down"

    def all_taken(self) -> None:
        """Wait for as many answers as there are devices; every one must be a receipt."""
        for _ in self._devices:
            topic = self._answers.get(timeout=_PATIENCE)
            assert topic.endswith("/receipt"), f"a delta was refused: {topic}"

    def _publish(self, messages: list[tuple[str, bytes]]) -> None:
        for topic, payload in messages:
            assert self._links[0].publish(topic, payload, retain=True), "the link is down"
        assert self._links[0].drain(_PATIENCE), "the broker does not take the devices' states"

    def _on_event(self, event: LinkEvent) -> None:
        if isinstance(event, Up):
            self._up.release()
        elif isinstance(event, Message):
            if event.topic == self._topics.round:
                self._offers.put(event.payload)
            else:
                self._answers.put(event.topic)

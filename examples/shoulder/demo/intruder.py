"""Somebody on the broker: hears everything, and sends what an honest aggregator must refuse.

Four messages: a delta signed by a key that nobody enrolled, a real delta with a flipped bit, a real one sent
once more, and a delta that a real but stolen key signed over other parameters than the round's. Later it
announces a release of its own, and answers the devices that ask for it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from marram.link.broker import Broker
from marram.link.identity import load
from marram.link.mqtt import LinkEvent, Message, MqttLink, Options, Up
from marram.wire import cbor, chunks, envelope, reasons
from marram.wire.certificates import Subject
from marram.wire.envelope import KeySigner
from marram.wire.messages import Delta, Fetch, Offer, Receipt, Report
from marram.wire.signed import Author, read
from marram.wire.topics import Topics
from marram_cloud.enrolment.authority import new_key
from msgspec.structs import replace

from examples.shoulder.demo.forger import Forger

EXPECTED = {
    "forged": reasons.UNKNOWN_DEVICE,
    "tampered": reasons.BAD_SIGNATURE,
    "replayed": reasons.REPLAYED,
    "wrong_base": reasons.WRONG_BASE,
}
"""The reason under which each attack has to be counted."""


@dataclass
class Heard:
    """What went over the broker. delta_bytes: topics and payloads of all frames of the devices' deltas.

    receipts: digests of all deltas for which a receipt was sent, with the round. deltas: the sealed ones, by
    sender. reports: what devices told of releases: (time.monotonic(), device, report).
    """

    delta_bytes: int = 0
    receipts: dict[bytes, int] = field(default_factory=dict)
    deltas: dict[str, list[bytes]] = field(default_factory=dict)
    offer: Offer | None = None
    reports: list[tuple[float, str, Report]] = field(default_factory=list)


class Intruder:
    """One client. identity: the folder of the stolen key."""

    def __init__(self, port: int, topics: Topics, identity: Path) -> None:
        self.heard = Heard()
        self.sent: Counter[str] = Counter()
        self._topics = topics
        self._stolen = load(identity)
        self._assemblers: dict[str, chunks.Assembler] = {}
        self._new_offer = threading.Event()
        self._forger: Forger | None = None
        broker = Broker.parse(f"mqtt://127.0.0.1:{port}")
        self._link = MqttLink(broker, Options("intruder"), self._listen)
        self._counter = 1 << 50
        self._link.start()

    def stop(self) -> None:
        self._link.stop()

    def wait_for_offer(self, patience: float) -> bool:
        """Until the next new offer comes; False after ``patience`` seconds."""
        self._new_offer.clear()
        return self._new_offer.wait(patience)

    def attack(self, kind: str) -> None:
        """Send the message of that kind ("forged" ...) while the last offer's round is open."""
        offer = self.heard.offer
        assert offer is not None
        sender, sealed = self._captured()
        topic = self._topics.up(sender, "delta")
        parsed = envelope.parse(sealed, len(sealed))
        delta = replace(read(parsed, Delta), round=offer.round, version=offer.version)
        match kind:
            case "forged":
                subject = Subject(self._topics.fleet, self._topics.region, "device", sender)
                forger = Author(subject, KeySigner(new_key()))
                message = self._seal(forger, delta, topic, offer.digest)
            case "tampered":
                middle = sealed.index(parsed.payload) + len(parsed.payload) // 2
                message = sealed[:middle] + bytes([sealed[middle] ^ 1]) + sealed[middle + 1 :]
            case "replayed":
                message = sealed
            case "wrong_base":
                subject = self._stolen.subject
                topic = self._topics.up(subject.name, "delta")
                base = hashlib.sha256(b"other parameters").digest()
                message = self._seal(Author(subject, self._stolen.signer), delta, topic, base)
            case _:
                raise ValueError(f"no attack {kind!r}")
        for frame in chunks.split(message, chunks.DEFAULT_LIMIT):
            self._link.publish(topic, frame)
            self.heard.delta_bytes -= len(topic) + len(frame)  # it comes back to our own ears
        self.sent[kind] += 1

    def announce(self, forger: Forger) -> None:
        """Say that there is news of releases, and answer from now on whoever asks for it."""
        self._forger = forger
        self._link.publish(self._topics.timestamp, forger.timestamp, retain=True)
        self.sent["timestamp"] += 1

    def give_up(self) -> None:
        """Answer nobody any more."""
        self._forger = None

    def _seal(self, author: Author, delta: Delta, topic: str, base: bytes) -> bytes:
        self._counter += 1
        return author.seal(delta, topic, self._counter, round=delta.round, base=base)

    def _captured(self) -> tuple[str, bytes]:
        """An accepted delta of an earlier round, and who sent it."""
        for sender, sealed in sorted(self.heard.deltas.items()):
            for one in sealed[:-1]:
                if envelope.digest(one) in self.heard.receipts:
                    return sender, one
        raise LookupError("no accepted delta of an earlier round was heard yet")

    def _listen(self, event: LinkEvent) -> None:
        if isinstance(event, Up):
            deltas, fetches = self._topics.up("+", "delta"), self._topics.up("+", "fetch")
            receipts, reports = self._topics.down("+", "receipt"), self._topics.report("+")
            self._link.subscribe((self._topics.round, deltas, fetches, receipts, reports))
        elif isinstance(event, Message):
            self._hear(event.topic, event.payload)

    def _hear(self, topic: str, payload: bytes) -> None:
        sender = self._topics.device_of(topic)
        if topic == self._topics.round and payload:
            offer = read(envelope.parse(payload, len(payload)), Offer)
            if self.heard.offer is None or offer.round > self.heard.offer.round:
                self.heard.offer = offer
                self._new_offer.set()
        elif topic.endswith("/receipt"):
            receipt = read(envelope.parse(payload, len(payload)), Receipt)
            self.heard.receipts[receipt.delta] = receipt.round
        elif sender is not None and topic == self._topics.report(sender):
            report = read(envelope.parse(payload, len(payload)), Report)
            self.heard.reports.append((time.monotonic(), sender, report))
        elif sender is not None and topic == self._topics.up(sender, "fetch"):
            self._answer(sender, cbor.unpack(payload, Fetch))
        elif sender is not None:
            self.heard.delta_bytes += len(topic) + len(payload)
            assembler = self._assemblers.setdefault(sender, chunks.Assembler(1 << 20, 4))
            sealed = assembler.add(payload)
            if sealed is not None and sender != self._stolen.subject.name:
                self.heard.deltas.setdefault(sender, []).append(sealed)

    def _answer(self, device: str, request: Fetch) -> None:
        """Quicker than the aggregator, if it can be."""
        forger = self._forger
        for block in forger.answer(device, request) if forger is not None else ():
            self._link.publish(self._topics.down(device, "block"), cbor.pack(block))
            self.sent["block"] += 1

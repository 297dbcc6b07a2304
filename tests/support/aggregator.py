"""What an aggregator says to its devices, made by hand: offers, parameters, receipts, refusals."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from marram.wire import envelope
from marram.wire.codec.chain import Chain
from marram.wire.messages import Artefact, Offer, Parameters, Receipt, Refusal, Steps
from marram.wire.parameters import advance, parameters_digest
from marram.wire.signed import Author
from marram.wire.topics import Topics

from tests.support.identities import author, fleet

TOPICS = Topics("fleet", "region")
FAMILY = "f" * 64
SIZE = 24
INITIAL = np.linspace(-1, 1, SIZE, dtype=np.float32)
NOW = fleet().certificate.not_valid_before_utc.timestamp() + 10 * 86400


@dataclass
class Voice:
    """Version v of the parameters is made by an update from version v - 1; every third has a snapshot too.

    retained: topic -> payload, what a broker would hold.
    """

    chain: str = "feedback|quantise(4,8)"
    who: Author = field(default_factory=lambda: author("aggregator", "aggregator"))
    versions: list[np.ndarray] = field(default_factory=lambda: [INITIAL])
    artefacts: list[Artefact] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    counter: int = 0
    run: bytes = b"r" * 16

    def __post_init__(self) -> None:
        self._publish("snapshot", "float32", Chain.parse("float32").encode(INITIAL, 0).payload)

    def next_version(self) -> int:
        old, number = self.versions[-1], len(self.versions)
        change = np.random.default_rng(number).normal(size=SIZE).astype(np.float32)
        payload = Chain.parse("quantise(8,8)").encode(change, number).payload
        self.versions.append(advance(old, "update", "quantise(8,8)", payload, number))
        self._publish("update", "quantise(8,8)", payload)
        if number % 3 == 0:
            self._publish("snapshot", "float32", Chain.parse("float32").encode(self.versions[-1], 0).payload)
        return number

    def offer(self, round: int, **changes: object) -> Offer:
        version = len(self.versions) - 1
        fields = {
            "run": self.run, "round": round, "model": "model", "family": FAMILY, "version": version,
            "digest": parameters_digest(self.versions[-1]), "chain": self.chain, "seed": round,
            "steps": Steps(1, 16, 0.05), "minimum": 1, "artefacts": tuple(self.artefacts), **changes,
        }  # fmt: skip
        return Offer(**fields)

    def sealed_offer(self, offer: Offer) -> bytes:
        return self._seal(offer, TOPICS.round, round=offer.round, introduce=True)

    def receipt(self, device: str, round: int, digest: bytes) -> tuple[str, bytes]:
        topic = TOPICS.down(device, "receipt")
        return topic, self._seal(Receipt(round, digest), topic)

    def refusal(self, device: str, digest: bytes, reason: str) -> tuple[str, bytes]:
        topic = TOPICS.down(device, "refusal")
        return topic, self._seal(Refusal(digest, reason, "because"), topic)

    def _publish(self, kind: str, chain: str, payload: bytes) -> None:
        version = len(self.versions) - 1
        message = Parameters(version, kind, chain, version, payload, parameters_digest(self.versions[-1]))
        topic = TOPICS.parameters(version, kind, 0)
        sealed = self._seal(message, topic)
        half = len(sealed) // 2 + 1
        self.artefacts.append(Artefact(version, kind, envelope.digest(sealed), len(sealed), 2))
        for part in range(2):
            self.retained[TOPICS.parameters(version, kind, part)] = sealed[part * half : (part + 1) * half]

    def _seal(self, message: object, topic: str, **more: object) -> bytes:
        self.counter += 1
        return self.who.seal(message, topic, self.counter, **more)

"""An aggregator's service over a real ledger, with enrolled devices that speak for themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from marram.wire import certificates, chunks, envelope
from marram.wire.codec.chain import Chain
from marram.wire.codec.seed import device_seed
from marram.wire.messages import Delta, Metrics, Offer, Receipt, Refusal, Steps
from marram.wire.signed import read
from marram_cloud.engines.local import LocalEngine
from marram_cloud.ledger import ledger as ledgers
from marram_cloud.ledger.ledger import Ledger
from marram_cloud.rounds.coordinator import Rules
from marram_cloud.rounds.service import Model, Service
from marram_cloud.rounds.settings import AnyStrategy, RoundSettings
from marram_cloud.strategies.fedavg import FedAvg

from tests.simulation.disk import Disk, new_disk
from tests.support.aggregator import FAMILY, INITIAL, NOW, SIZE, TOPICS
from tests.support.identities import author, certified, fleet

MEASURED = Metrics(10, 1.0, 0.5)
CALIBRATE = b"c" * 32, 2  # a program that measures two activations


@dataclass
class Region:
    """sent: what the service published since ``clear``, whole messages by topic."""

    devices: int = 3
    chain: str = "float32"
    rules: Rules = field(default_factory=lambda: Rules(minimum=2, deadline=60.0, settle=1.0))
    limit: int | None = None
    ranges_limit: float | None = None
    disk: Disk = field(default_factory=lambda: new_disk(ledgers.SCHEMA))
    now: float = NOW
    counter: int = 0
    model: Model = field(default_factory=lambda: Model("model", FAMILY, INITIAL, CALIBRATE))
    strategy: AnyStrategy = field(default_factory=FedAvg)
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.disk)
        for name in self.names:
            self.ledger.add_device(name, certified("device", name)[0], self.now)
        self.boot()

    @property
    def names(self) -> list[str]:
        return [f"device-{number + 1}" for number in range(self.devices)]

    def boot(self) -> None:
        """Start the service from the ledger, as after kill -9."""
        self.service = Service(
            ledger=self.ledger,
            author=author("aggregator", "aggregator"),
            authority=fleet().certificate,
            topics=TOPICS,
            model=self.model,
            settings=RoundSettings(
                rules=self.rules, steps=Steps(1, 16, 0.05), chain=self.chain, update_chain="float32",
                strategy=self.strategy, snapshot_every=3, limit=self.limit, max_norm=100.0, max_windows=1000,
                ranges_limit=self.ranges_limit,
            ),
            engine=LocalEngine(),
            send=lambda topic, payload, retain: self.sent.append((topic, payload)),
        )  # fmt: skip
        self.service.start(self.now)

    # what devices say

    def delta(self, name: str = "device-1", vector: np.ndarray | None = None, **changes: Any) -> bytes:
        """A sealed delta for the open round; changes replace fields of the message or of its header.

        base, counter, header_round, topic, who: of the envelope; everything else of the message.
        """
        round = self.ledger.current_round()
        assert round is not None
        self.counter += 1
        who = changes.pop("who", author("device", name))
        envelope_fields = {
            "base": changes.pop("base", self.ledger.version_digest(round.version)),
            "round": changes.pop("header_round", changes.get("round", round.number)),
        }
        counter = changes.pop("counter", self.counter)
        topic = changes.pop("topic", TOPICS.up(name, "delta"))
        if "payload" not in changes:
            chain = Chain.parse(changes.get("chain", round.chain))
            value = np.full(SIZE, 0.1, np.float32) if vector is None else vector
            changes["payload"] = chain.encode(value, device_seed(round.seed, name)).payload
        fields = {
            "run": self.ledger.run(), "round": round.number, "version": round.version,
            "chain": round.chain, "samples": 5, "before": MEASURED, "after": MEASURED, **changes,
        }  # fmt: skip
        return who.seal(Delta(**fields), topic, counter, **envelope_fields)

    def hears(self, sealed: bytes, name: str = "device-1", kind: str = "delta") -> None:
        """A whole message arrives on a device's topic, in frames."""
        frames = chunks.split(sealed)
        self.service.take([(TOPICS.up(name, kind), frame) for frame in frames], self.now)

    def hears_raw(self, payload: bytes, name: str = "device-1", kind: str = "delta") -> None:
        self.service.take([(TOPICS.up(name, kind), payload)], self.now)

    def online(self, *names: str) -> None:
        self.service.take([(TOPICS.state(name), b'{"online":true}') for name in names], self.now)

    def waits(self, seconds: float) -> None:
        self.now += seconds
        wake = self.service.wake_at
        if wake is not None and wake <= self.now:
            self.service.wake(self.now)

    # what the service said

    def receipts(self, name: str = "device-1") -> list[bytes]:
        return [message.delta for message in self._said(TOPICS.down(name, "receipt"), Receipt)]

    def refusals(self, name: str = "device-1") -> list[str]:
        return [message.reason for message in self._said(TOPICS.down(name, "refusal"), Refusal)]

    def offers(self) -> list[Offer]:
        return self._said(TOPICS.round, Offer)

    def _said(self, topic: str, kind: type) -> list[Any]:
        key = certificates.public_key(certified("aggregator", "aggregator")[0])
        found = []
        for place, payload in self.sent:
            if place == topic and payload:
                sealed = envelope.parse(payload, 1 << 20)
                envelope.verify(sealed, topic, key)
                found.append(read(sealed, kind))
        return found

    @property
    def stored(self) -> dict[int, list[str]]:
        """Devices by round, as the ledger has their deltas."""
        return {
            round.number: [name for name, _ in self.ledger.delta_devices(round.number)]
            for round in self.ledger.rounds()
        }

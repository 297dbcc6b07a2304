"""A device's learning without a daemon: real participant, shell and journal; the test is link and trainer."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

import numpy as np
from marram.learning import journal as journals
from marram.learning import participant as machine
from marram.learning.journal import Journal
from marram.learning.participant import Participant
from marram.learning.shell import Outcome, Shell
from marram.wire import chunks, envelope
from marram.wire.messages import Metrics, Offer
from marram.wire.signed import AggregatorTrust

from tests.simulation.disk import new_disk
from tests.support.aggregator import FAMILY, INITIAL, NOW, SIZE, TOPICS
from tests.support.identities import author, fleet

NAME = "device-1"
MEASURED = Metrics(10, 1.0, 0.5)


@dataclass
class Device:
    """up: whether the link takes messages. sent: sealed messages by topic, put together again."""

    disk: sqlite3.Connection = field(default_factory=lambda: new_disk(journals.SCHEMA))
    up: bool = True
    allowed: tuple[bool, str] = (True, "")
    now: float = NOW
    family: str = FAMILY
    topics: set[str] = field(default_factory=set)
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    training: Offer | None = None
    trainings: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.boot()

    def boot(self) -> None:
        """Start anew from the disk, as after a power cut."""
        self.training = None
        self.topics.clear()
        self._frames = chunks.Assembler(1 << 20, 8)
        self.journal = Journal(self.disk, self.family, INITIAL)
        trust = AggregatorTrust(fleet().certificate, "fleet", "region")

        def make() -> Participant:
            return Participant(TOPICS, author("device", NAME), trust, self.family, self.journal.memory())

        self.shell = Shell(make, self.journal, self, self, lambda _: self.allowed, chunk_limit=200)

    @property
    def participant(self) -> Participant:
        return self.shell.participant

    @property
    def deltas(self) -> list[bytes]:
        """Digests of the deltas that were sent, in order."""
        return [envelope.digest(sealed) for topic, sealed in self.sent if topic.endswith("/delta")]

    def does(self, event: machine.Event) -> None:
        self.shell.dispatch(event, self.now)

    def connects(self) -> None:
        self.up = True
        self.does(machine.Connected())

    def hears(self, topic: str, payload: bytes) -> None:
        self.does(machine.Arrived(topic, payload))

    def waits(self, seconds: float) -> None:
        """Let time pass; what is due then happens."""
        self.now += seconds
        wake = self.participant.wake_at
        if wake is not None and wake <= self.now:
            self.does(machine.Woke())

    def trained(self, delta: np.ndarray | None = None, samples: int = 5) -> None:
        """The training that runs ends well."""
        offer, self.training = self.training, None
        assert offer is not None
        if delta is None:
            delta = np.random.default_rng(offer.round).normal(size=SIZE).astype(np.float32)
        self.shell.trained(offer, Outcome(delta, samples, MEASURED, MEASURED), self.now)

    # the shell's link and trainer

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> bool:
        if self.up and (message := self._frames.add(payload)) is not None:
            self.sent.append((topic, message))
        return self.up

    def subscribe(self, topics: tuple[str, ...]) -> None:
        self.topics |= set(topics)

    def unsubscribe(self, topics: tuple[str, ...]) -> None:
        self.topics -= set(topics)

    def start(self, offer: Offer) -> None:
        self.training = offer
        self.trainings.append(offer.round)

    def stop(self) -> None:
        self.training = None

"""The participant's hands: performs its actions on a journal, a link, a governor and a trainer.

It is used by the daemon with the real ones and by the simulation with simulated ones. ``dispatch`` must be
called by one thread at a time. An error of the disk makes the participant start again from the journal,
after a pause, so that a full disk does not make it train again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from marram.errors import StorageError, WireError
from marram.learning import participant as machine
from marram.learning.journal import Journal
from marram.learning.participant import Participant
from marram.wire import chunks
from marram.wire.codec.chain import Chain, Encoded
from marram.wire.codec.seed import device_seed
from marram.wire.messages import Metrics, Offer
from marram.wire.parameters import Vector

PAUSE = 60.0

log = logging.getLogger(__name__)


class Link(Protocol):
    """What the shell needs of the connection; see ``marram.link.mqtt.MqttLink``."""

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> bool: ...

    def subscribe(self, topics: tuple[str, ...]) -> None: ...

    def unsubscribe(self, topics: tuple[str, ...]) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training gave. delta: float32 (P,), new minus base; or the payload itself, of a forest's round.

    samples: windows it trained on. ranges: where the offer asked for them and they could be measured.
    """

    delta: Vector | bytes
    samples: int
    before: Metrics
    after: Metrics
    ranges: bytes | None = None


class Trainer(Protocol):
    """Trains in the background; its end comes back as ``Shell.trained`` or ``Shell.failed``."""

    def start(self, offer: Offer) -> None: ...

    def stop(self) -> None: ...


@dataclass
class Shell:
    """See the module's docstring. permit: the governor, gives (allowed, reason) for an offer.

    make: builds a participant from what the journal holds.
    """

    make: Callable[[], Participant]
    journal: Journal
    link: Link
    trainer: Trainer
    permit: Callable[[Offer], tuple[bool, str]]
    chunk_limit: int = chunks.DEFAULT_LIMIT
    participant: Participant = field(init=False)

    def __post_init__(self) -> None:
        self.participant = self.make()

    def dispatch(self, event: machine.Event, now: float) -> None:
        """Give the participant one event and do what it wants done."""
        pending: list[machine.Event] = [event]
        while pending:
            for action in self.participant.handle(pending.pop(0), now):
                try:
                    answer = self._perform(action)
                except StorageError as error:
                    log.error("learning starts again from the journal: %s", error)
                    self._start_again(now)
                    return
                if answer is not None:
                    pending.append(answer)

    def trained(self, offer: Offer, outcome: Outcome, now: float) -> None:
        """Encode a training's delta and give it to the participant.

        Encoded here and not in the trainer, so that no refusal that gives a delta back can come between
        reading the residual and writing it.
        """
        participant = self.participant
        if offer.run != participant.run:
            return  # it ended in the moment in which the rounds began anew
        try:
            encoded = self._encoded(offer, outcome.delta)
        except WireError as error:
            self.failed(offer, str(error), now)
            return
        left = None if encoded.residual is None else encoded.residual.astype("<f4").tobytes()
        event = machine.Trained(
            offer.round, encoded.payload, left, outcome.samples, outcome.before, outcome.after,
            outcome.ranges,
        )  # fmt: skip
        self.dispatch(event, now)

    def _encoded(self, offer: Offer, delta: Vector | bytes) -> Encoded:
        if isinstance(delta, bytes):
            return Encoded(delta, None)
        chain = Chain.parse(offer.chain)
        residual = self.journal.residual() if chain.feedback else None
        return chain.encode(delta, device_seed(offer.seed, self.participant.author.subject.name), residual)

    def failed(self, offer: Offer, reason: str, now: float) -> None:
        """A training ended without a delta."""
        if offer.run == self.participant.run:
            self.dispatch(machine.TrainingFailed(offer.round, reason), now)

    def _start_again(self, now: float) -> None:
        self.trainer.stop()
        connected = self.participant.connected
        self.participant = self.make()
        self.participant.not_before = now + PAUSE
        if connected:
            # The link is still up: nobody else would tell the new participant.
            self.dispatch(machine.Connected(), now)

    def _perform(self, action: machine.Action) -> machine.Event | None:
        match action:
            case machine.Subscribe():
                self.link.subscribe(action.topics)
            case machine.Unsubscribe():
                self.link.unsubscribe(action.topics)
            case machine.Apply():
                return self.journal.apply(action)
            case machine.Begin():
                return self.journal.begin(action)
            case machine.Ask():
                allowed, reason = self.permit(action.offer)
                return machine.Permission(action.offer.round, allowed, reason)
            case machine.Train():
                self.trainer.start(action.offer)
            case machine.StopTraining():
                self.trainer.stop()
            case machine.CommitDelta():
                self.journal.commit_delta(action)
            case machine.Settle():
                self.journal.settle(action.digest, action.give_back)
            case machine.Send():
                self._send("delta", self.journal.sealed(action.digest) or b"")
            case machine.SendDecline():
                self._send("decline", action.sealed)
            case machine.Note():
                log.log(logging.WARNING if action.level == "warning" else logging.INFO, "%s", action.text)
        return None

    def _send(self, kind: str, sealed: bytes) -> None:
        participant = self.participant
        topic = participant.topics.up(participant.author.subject.name, kind)
        for frame in chunks.split(sealed, self.chunk_limit) if sealed else []:
            if not self.link.publish(topic, frame):
                return

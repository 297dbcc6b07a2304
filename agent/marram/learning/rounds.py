"""The fleet's rounds on this device: the participant with its real link, governor and trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from marram.errors import TrainingError
from marram.learning import participant as machine
from marram.learning.journal import Journal
from marram.learning.participant import Participant
from marram.learning.shell import Link, Outcome, Shell
from marram.learning.trainer import Measured
from marram.learning.work import Learnt, Running, Workshop
from marram.loop import Loop
from marram.wire.messages import Metrics, Offer, RangesAsked
from marram.wire.ranges import encode
from marram.wire.trees import most_trees


@dataclass
class Rounds:
    """A member of the daemon's loop. All methods but the trainer's end run in the loop's thread."""

    make: Callable[[], Participant]
    journal: Journal
    link: Link
    workshop: Workshop
    loop: Loop
    deltas: int = 0
    _running: Running | None = field(default=None)
    _shell: Shell = field(init=False)

    def __post_init__(self) -> None:
        self._shell = Shell(self.make, self.journal, self.link, self, self._permit)

    @property
    def participant(self) -> Participant:
        return self._shell.participant

    @property
    def wake_at(self) -> float | None:
        return self._shell.participant.wake_at

    def wake(self, now: float) -> None:
        self._shell.dispatch(machine.Woke(), now)

    def connected(self, max_payload: int, now: float) -> None:
        self._shell.chunk_limit = min(96 * 1024, max_payload)
        self._shell.dispatch(machine.Connected(), now)

    def disconnected(self, now: float) -> None:
        self._shell.dispatch(machine.Disconnected(), now)

    def arrived(self, topic: str, payload: bytes, now: float) -> None:
        self._shell.dispatch(machine.Arrived(topic, payload), now)

    def start(self, offer: Offer) -> None:
        """The shell's trainer: begin."""
        base = self.journal.vector()
        steps = offer.steps

        def finished(outcome: Learnt | TrainingError) -> None:
            self.loop.post(lambda now: self._finished(offer, outcome, now))

        try:
            self._running = self.workshop.start(
                base, steps.epochs, steps.batch, steps.learning_rate, steps.mu, offer.seed, finished,
                ranges=self._measures(offer.ranges), trees=self._trees(offer),
            )  # fmt: skip
        except TrainingError as error:
            finished(error)

    def stop(self) -> None:
        """The shell's trainer: end."""
        if self._running is not None:
            self.workshop.stop(self._running)

    def _measures(self, asked: RangesAsked | None) -> bool:
        """Whether this device's bundle holds the very program that is to measure ranges."""
        manifest = self.workshop.manifest
        program = manifest.programs.get("calibrate")
        return (
            asked is not None
            and program is not None
            and manifest.members[program.file] == asked.program.hex()
        )

    def _trees(self, offer: Offer) -> int:
        """How many trees to grow; 0 for a model that is no forest. Raises TrainingError."""
        asked, forest = most_trees(offer.chain), self.workshop.manifest.forest
        if bool(asked) != forest:
            raise TrainingError(
                f"{offer.model} is {'a' if forest else 'no'} forest, offered was {offer.chain!r}"
            )
        return asked

    def _permit(self, offer: Offer) -> tuple[bool, str]:
        return self.workshop.permit(offer.minimum)

    def _finished(self, offer: Offer, outcome: Learnt | TrainingError, now: float) -> None:
        if isinstance(outcome, TrainingError):
            self._shell.failed(offer, str(outcome), now)
            return
        result = outcome.result
        delta = outcome.contribution or outcome.parameters - self.journal.vector()
        ranges = None
        if offer.ranges is not None and result.ranges is not None:
            low, high = (np.array(one, np.float64) for one in result.ranges)
            ranges = encode(low, high, offer.ranges.limit)
        measured = Outcome(delta, result.samples, _metrics(result.before), _metrics(result.after), ranges)
        before = self.participant.done_round
        self._shell.trained(offer, measured, now)
        self.deltas += self.participant.done_round > before


def _metrics(measured: Measured) -> Metrics:
    return Metrics(measured.count, measured.loss, measured.accuracy)

"""A device that learns on its own: trains on a schedule, keeps what it learnt, and runs it.

It runs in int8 where the trainer found that as good as float32, until it fails or does worse on windows that
came later: then float32 takes its place until the next training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from marram.config.schema import Schedule
from marram.errors import StorageError, TrainingError
from marram.inference.model import Model
from marram.learning.own import Own, OwnFile
from marram.learning.trainer import Int8Outcome
from marram.learning.work import Learnt, Workshop
from marram.loop import Loop
from marram.programs.program import ProgramOptions
from marram.wire.parameters import Vector

_LOOK_AGAIN, _AFTER_FAILURE, _WATCH_INT8 = 5.0, 60.0, 60.0
_ENOUGH = 30  # windows that came since the last comparison

log = logging.getLogger(__name__)


@dataclass
class LocalLearning:
    """A member of the daemon's loop: trains when the schedule and the governor say so.

    trouble: why what the device trained itself does not run as it should; "" where all is well.
    """

    schedule: Schedule
    workshop: Workshop
    own: Own
    options: ProgramOptions
    loop: Loop
    swap: Callable[[Model, Model | None], None]
    trouble: Callable[[], str]
    phase: str = "collecting windows"
    wake_at: float | None = 0.0
    _about: OwnFile | None = field(default=None)
    _training: bool = field(default=False)
    _checked: int = 0

    def __post_init__(self) -> None:
        self._remember()

    def _remember(self) -> None:
        """What is on disk; kept in memory, as it may be large and is looked at often."""
        found = self.own.load()
        self._about = found[0] if found is not None else None

    @property
    def int8(self) -> Int8Outcome | None:
        """How the int8 form of what was learnt was judged last."""
        return self._about.int8 if self._about is not None else None

    def settle(self, schedule: Schedule, options: ProgramOptions, now: float) -> None:
        """Another schedule from now on."""
        self.schedule, self.options = schedule, options
        self.wake(now)

    def wake(self, now: float) -> None:
        """Look whether it is time."""
        self.wake_at = now + _LOOK_AGAIN
        if self._training:
            return
        about = self._about
        if about is not None and 0 <= now - about.trained < self.schedule.every:
            self.phase = "waiting for the next training"
            self.wake_at = about.trained + self.schedule.every
            if about.int8 is not None and about.int8.used:
                self.wake_at = min(self.wake_at, now + _WATCH_INT8)
                self._watch_int8(about, about.int8)
            return
        allowed, reason = self.workshop.permit(self.schedule.after)
        if not allowed:
            self.phase = f"not training: {reason}"
            return
        found = self.own.load()
        self._start(found[1] if found else None, now)

    def _start(self, parameters: Vector | None, now: float) -> None:
        training = self.own.bundle.manifest.training
        rate = self.schedule.learning_rate or training.learning_rate

        def finished(outcome: Learnt | TrainingError) -> None:
            self.loop.post(lambda now: self._finished(outcome, now))

        try:
            self.workshop.start(
                parameters, self.schedule.epochs, training.batch, rate, 0.0, int(now), finished,
                int8=self._int8_allowed(),
            )  # fmt: skip
        except (StorageError, TrainingError) as error:
            self._failed(f"training could not begin: {error}", now)
            raise
        self._training = True
        self.phase = "training"

    def _finished(self, outcome: Learnt | TrainingError, now: float) -> None:
        self._training = False
        if isinstance(outcome, TrainingError):
            self._failed(f"training failed: {outcome}", now)
            raise outcome
        try:
            self.own.save(outcome, now)
        except StorageError as error:
            self._failed(f"what was learnt could not be kept: {error}", now)
            raise
        self._remember()
        self._checked = 0
        if self.int8 is not None and not self.int8.used:
            log.info("what was learnt runs in float32: %s", self.int8.reason)
        self._run()
        self.wake(now)

    def _run(self) -> None:
        models = self.own.models(self.options, self._int8_allowed())
        if models is not None:
            self.swap(models.model, models.fallback)

    # ---- int8 afterwards

    def _int8_allowed(self) -> bool:
        return self.workshop.config.int8.use != "never"

    def _watch_int8(self, about: OwnFile, judged: Int8Outcome) -> None:
        trouble = self.trouble()
        if trouble:
            self._back_to_float32(trouble, about)
            return
        counts = self.workshop.store.counts()
        new = counts.new_labelled if self.own.bundle.manifest.task == "classify" else counts.new
        if new - self._checked < _ENOUGH or self.workshop.paused or self.workshop.busy:
            return
        self._checked = new

        def finished(outcome: Int8Outcome | TrainingError) -> None:
            self.loop.post(lambda now: self._compared(about, outcome))

        files = self.own.parameters_file(about), self.own.arrays_file(about)
        self.workshop.check(*files, (about.normal, judged.normal), finished)

    def _compared(self, about: OwnFile, outcome: Int8Outcome | TrainingError) -> None:
        """Raises TrainingError when nothing could be compared: int8 then stays."""
        if isinstance(outcome, TrainingError):
            raise outcome
        if not outcome.used:
            self._back_to_float32(f"on {outcome.windows} new windows: {outcome.reason}", about)

    def _back_to_float32(self, reason: str, about: OwnFile) -> None:
        if self._about != about:
            return  # another training has ended meanwhile
        log.warning("int8 is given up until the next training, float32 runs: %s", reason)
        self.own.refuse_int8(reason)
        self._remember()
        self._run()

    def _failed(self, phase: str, now: float) -> None:
        self.phase = phase
        self.wake_at = now + _AFTER_FAILURE

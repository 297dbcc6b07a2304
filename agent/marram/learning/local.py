"""A device that learns on its own: trains on a schedule, keeps what it learnt, and runs it.

What it learnt is ``own.json`` and the file of parameters whose name and digest it gives. The parameters are
written first, under a name of their own: a power cut between the two leaves what was learnt before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from marram.bundle.file import Bundle
from marram.config.schema import Schedule
from marram.errors import StorageError, TrainingError
from marram.inference.model import Model, Normal, own_model
from marram.learning.trainer import NormalFile
from marram.learning.work import Learnt, Workshop
from marram.loop import Loop
from marram.programs.program import ProgramOptions
from marram.storage import replace_file
from marram.wire.parameters import Vector, parameters_digest

_LOOK_AGAIN, _AFTER_FAILURE = 5.0, 60.0


class OwnFile(msgspec.Struct, frozen=True):
    """``own.json``. family: of the bundle. digest: hex sha256 of the parameters. trained: Unix s."""

    family: str
    digest: str
    trained: float
    normal: NormalFile | None = None


@dataclass
class Own:
    """The parameters that this device trained itself, on disk in ``folder``."""

    folder: Path
    bundle: Bundle

    def load(self) -> tuple[OwnFile, Vector] | None:
        """What was learnt for this bundle's family; None when there is nothing, or it is damaged."""
        try:
            about = msgspec.json.decode((self.folder / "own.json").read_bytes(), type=OwnFile)
            vector = np.fromfile(self._file(about.digest), "<f4").astype(np.float32)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if about.family != self.bundle.manifest.family or parameters_digest(vector).hex() != about.digest:
            return None
        return about, vector

    def save(self, learnt: Learnt, now: float) -> None:
        """Raises StorageError; what was there before stays then."""
        digest = parameters_digest(learnt.parameters).hex()
        about = OwnFile(self.bundle.manifest.family, digest, now, learnt.normal)
        replace_file(self._file(digest), learnt.parameters.astype("<f4").tobytes())
        replace_file(self.folder / "own.json", msgspec.json.encode(about))
        for older in self.folder.glob("*.f32"):
            if older != self._file(digest):
                older.unlink(missing_ok=True)

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest[:16]}.f32"

    def model(self, options: ProgramOptions) -> Model | None:
        """A model that runs what was learnt, or None."""
        found = self.load()
        if found is None:
            return None
        about, vector = found
        return own_model(self.bundle, vector, _normal(about.normal), options)


@dataclass
class LocalLearning:
    """A member of the daemon's loop: trains when the schedule and the governor say so."""

    schedule: Schedule
    workshop: Workshop
    own: Own
    options: ProgramOptions
    loop: Loop
    swap: Callable[[Model], None]
    phase: str = "collecting windows"
    wake_at: float | None = 0.0
    _training: bool = field(default=False)

    def settle(self, schedule: Schedule, options: ProgramOptions, now: float) -> None:
        """Another schedule from now on."""
        self.schedule, self.options = schedule, options
        self.wake(now)

    def wake(self, now: float) -> None:
        """Look whether it is time."""
        self.wake_at = now + _LOOK_AGAIN
        if self._training:
            return
        found = self.own.load()
        if found is not None and 0 <= now - found[0].trained < self.schedule.every:
            self.phase = "waiting for the next training"
            self.wake_at = found[0].trained + self.schedule.every
            return
        allowed, reason = self.workshop.permit(self.schedule.after)
        if not allowed:
            self.phase = f"not training: {reason}"
            return
        self._start(found[1] if found else None, now)

    def _start(self, parameters: Vector | None, now: float) -> None:
        training = self.own.bundle.manifest.training
        rate = self.schedule.learning_rate or training.learning_rate

        def finished(outcome: Learnt | TrainingError) -> None:
            self.loop.post(lambda now: self._finished(outcome, now))

        try:
            self.workshop.start(
                parameters, self.schedule.epochs, training.batch, rate, 0.0, int(now), finished
            )
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
        model = self.own.model(self.options)
        if model is not None:
            self.swap(model)
        self.wake(now)

    def _failed(self, phase: str, now: float) -> None:
        self.phase = phase
        self.wake_at = now + _AFTER_FAILURE


def _normal(file: NormalFile | None) -> Normal | None:
    if file is None:
        return None
    mean = np.array(file.channel_mean, np.float32)
    return Normal(file.threshold, mean, np.array(file.channel_spread, np.float32))

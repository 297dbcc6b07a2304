"""One training as the daemon does it: ask the governor, run the child, read what it left.

Used by the rounds of a fleet and by a device that learns on its own.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from marram.bundle.manifest import Manifest
from marram.config.schema import Learning
from marram.device.resources import Resources, minute_of_day
from marram.errors import StorageError, TrainingError
from marram.learning.child import TrainerChild
from marram.learning.governor import Conditions, decide
from marram.learning.store import SampleStore
from marram.learning.trainer import CONTRIBUTION, Check, Int8Limits, Int8Outcome, Job, NormalFile, Result
from marram.storage import replace_file
from marram.wire.parameters import Vector


@dataclass(frozen=True)
class Learnt:
    """A finished training. parameters: float32 (P,). normal: where it was asked for.

    int8: file of the int8 arrays, where they may run; else empty. contribution: what a device tells in a
    round of a forest; else empty.
    """

    parameters: Vector
    normal: NormalFile | None
    result: Result
    int8: bytes = b""
    contribution: bytes = b""


Outcome = TypeVar("Outcome")


class Running:
    """A training or a comparison that runs, and its files: there is one at a time."""


@dataclass
class Workshop:
    """Where and with what this device trains. folder: for the child's files. paused: why none may."""

    config: Learning
    manifest: Manifest
    bundle: Path
    windows: Path
    folder: Path
    store: SampleStore
    resources: Resources
    child: TrainerChild
    paused: str = ""
    refused: str = ""
    last: Result | None = None
    trainings: int = 0
    _running: Running | None = field(default=None)

    @property
    def busy(self) -> bool:
        """Whether there is a training or a comparison that has not come to its end."""
        return self._running is not None

    def permit(self, minimum: int) -> tuple[bool, str]:
        """The governor's answer for a training that needs ``minimum`` windows."""
        counts = self.store.counts()
        labelled = self.manifest.task == "classify"
        conditions = Conditions(
            cpu=self.resources.others_cpu(),
            free_memory=self.resources.free_memory(),
            paused=self.paused,
            battery=self.resources.battery(),
            minute=minute_of_day(),
            trainable=counts.labelled if labelled else counts.windows,
            seen=counts.seen_labelled if labelled else counts.seen,
            new=counts.new_labelled if labelled else counts.new,
            busy=self.busy,
        )
        allowed, self.refused = decide(self.config.governor, conditions, minimum)
        return allowed, self.refused

    def start(
        self,
        parameters: Vector | None,
        epochs: int,
        batch: int,
        learning_rate: float,
        mu: float,
        seed: int,
        finished: Callable[[Learnt | TrainingError], None],
        int8: bool = False,
        ranges: bool = False,
        trees: int = 0,
    ) -> Running:
        """Train in the child; ``finished`` is called from another thread.

        int8: turn what is learnt into int8. ranges: measure the activations' ranges under ``parameters``.
        trees: grow so many for a round of a forest.
        Raises StorageError or TrainingError when it cannot begin, as while another one runs.
        """
        self._free()
        # Windows bear the machine's time. The daemon's is later where that is wrong: all would be too old.
        mark = self.store.begin_training(time.time())
        shutil.rmtree(self.folder, ignore_errors=True)
        start = self.folder / "start.f32"
        if parameters is not None:
            replace_file(start, parameters.astype("<f4").tobytes())
        trainer = self.config.trainer
        job = Job(
            bundle=str(self.bundle),
            windows=str(self.windows),
            parameters=None if parameters is None else str(start),
            output=str(self.folder),
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            mu=mu,
            seed=seed,
            minimum=1,
            calibrate=self.manifest.task != "classify",
            memory=trainer.memory,
            nice=trainer.nice,
            threads=trainer.threads,
            int8=self.int8_limits() if int8 else None,
            ranges=ranges,
            trees=trees,
        )

        def collected(outcome: Result | Int8Outcome | TrainingError) -> Learnt | TrainingError:
            return self._collect(outcome, mark) if isinstance(outcome, Result) else _failure(outcome)

        return self._run(job, collected, finished)

    def check(
        self,
        parameters: Path,
        arrays: Path,
        normal: tuple[NormalFile | None, NormalFile | None],
        finished: Callable[[Int8Outcome | TrainingError], None],
    ) -> None:
        """Compare the device's own int8 with its float32 on new windows, in the child.

        parameters, arrays: their files. normal: of float32 and of int8. Raises StorageError or TrainingError,
        as while something else runs.
        """
        self._free()
        self.store.flush(time.time())
        trainer = self.config.trainer
        work = Check(
            bundle=str(self.bundle),
            windows=str(self.windows),
            parameters=str(parameters),
            arrays=str(arrays),
            limits=self.int8_limits(),
            normal=normal[0],
            normal_int8=normal[1],
            memory=trainer.memory,
            nice=trainer.nice,
            threads=trainer.threads,
        )

        def judged(outcome: Result | Int8Outcome | TrainingError) -> Int8Outcome | TrainingError:
            return outcome if isinstance(outcome, Int8Outcome) else _failure(outcome)

        self._run(work, judged, finished)

    def int8_limits(self) -> Int8Limits:
        """As the trainer takes them."""
        int8 = self.config.int8
        return Int8Limits(int8.agreement, int8.accuracy, int8.score, int8.use == "auto")

    def pause(self, reason: str) -> None:
        """Let nothing train for this reason, or let it again (""); a training that runs stands still."""
        self.paused = reason
        self.child.pause(bool(reason))

    def stop(self, one: Running | None = None) -> None:
        """End this one and no other, or whatever runs; its ``finished`` is not called."""
        if one is None or one is self._running:
            self.child.stop()
            self._running = None

    def _free(self) -> None:
        if self.busy:
            raise TrainingError("another training runs")

    def _run(
        self,
        work: Job | Check,
        collect: Callable[[Result | Int8Outcome | TrainingError], Outcome],
        finished: Callable[[Outcome], None],
    ) -> Running:
        """Nothing else begins before what it left is collected: the next one's files go to the same place."""
        one = self._running = Running()

        def done(outcome: Result | Int8Outcome | TrainingError) -> None:
            collected = collect(outcome)
            if self._running is one:
                self._running = None
            finished(collected)

        try:
            self.child.start(work, self.config.trainer.timeout, done)
        except TrainingError:
            self._running = None
            raise
        return one

    def _collect(self, result: Result, mark: int) -> Learnt | TrainingError:
        try:
            parameters = np.fromfile(self.folder / "parameters.f32", "<f4").astype(np.float32)
            normal = None
            if self.manifest.task != "classify":
                text = (self.folder / "normal.json").read_bytes()
                normal = msgspec.json.decode(text, type=NormalFile)
            int8 = result.int8 is not None and result.int8.used
            arrays = (self.folder / "int8.safetensors").read_bytes() if int8 else b""
            told = self.folder / CONTRIBUTION
            contribution = told.read_bytes() if told.exists() else b""
            self.store.trained(mark)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, StorageError) as error:
            return TrainingError(f"what the trainer left cannot be used: {error}")
        self.last = result
        self.trainings += 1
        return Learnt(parameters, normal, result, arrays, contribution)


def _failure(outcome: object) -> TrainingError:
    return outcome if isinstance(outcome, TrainingError) else TrainingError("the trainer did other work")

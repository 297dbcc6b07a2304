"""The daemon's side of the trainer: starts the child, gives it the job, hears what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from marram.children.child import Child, ChildError
from marram.errors import TrainingError
from marram.learning.trainer import TOLD, Check, Failure, Int8Outcome, Job, Result


class TrainerChild:
    """At most one training at a time. ``finished`` is called from a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        child = self._child
        return child.pid if child is not None else None

    def start(
        self,
        job: Job | Check,
        timeout: float,
        finished: Callable[[Result | Int8Outcome | TrainingError], None],
    ) -> None:
        """Start the work; what still runs is ended first. timeout: seconds.

        Raises TrainingError.
        """
        self.stop()
        outcome: Result | Int8Outcome | TrainingError | None = None
        child: Child

        def heard(frame: msgspec.Struct | ChildError) -> None:
            nonlocal outcome
            match frame:
                case Result() | Int8Outcome():
                    outcome = frame
                case Failure():
                    outcome = TrainingError(frame.reason)
                case ChildError():
                    if self._over(child):
                        finished(outcome or TrainingError(f"the trainer {frame}"))

        with self._lock:  # nothing is heard before it is known whose it is
            try:
                child = self._child = Child("marram.learning.trainer", TOLD, heard, timeout, job.threads)
            except ChildError as error:
                raise TrainingError(f"the trainer cannot be started: {error}") from error
        child.send(job)
        child.close()

    def pause(self, paused: bool) -> None:
        """Have a training that runs stand still, or go on."""
        child = self._child
        if child is not None:
            child.pause(paused)

    def stop(self) -> None:
        """End the child, if there is one; its ``finished`` is not called any more."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.kill()

    def _over(self, child: Child) -> bool:
        """Whether it was the one that is waited for."""
        with self._lock:
            waited_for = child is self._child
            if waited_for:
                self._child = None
        return waited_for

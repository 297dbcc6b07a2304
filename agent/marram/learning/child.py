"""The daemon's side of the trainer: starts the child, feeds it the job, waits for its end in a thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import msgspec

from marram.errors import TrainingError
from marram.learning.trainer import Job, Result

_SAID = 500


class TrainerChild:
    """At most one training at a time. ``finished`` is called from a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        process = self._process
        return process.pid if process is not None else None

    def start(self, job: Job, timeout: float, finished: Callable[[Result | TrainingError], None]) -> None:
        """Start training; a training that still runs is ended first. Raises TrainingError."""
        self.stop()
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": str(job.threads)}
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", "marram.learning.trainer", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
        except OSError as error:
            raise TrainingError(f"the trainer cannot be started: {error.strerror or error}") from error
        with self._lock:
            self._process = process
        thread = threading.Thread(
            target=self._wait, args=(process, job, timeout, finished), name="trainer", daemon=True
        )
        thread.start()

    def stop(self) -> None:
        """End the child, if there is one; its ``finished`` is not called any more."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.kill()

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        job: Job,
        timeout: float,
        finished: Callable[[Result | TrainingError], None],
    ) -> None:
        outcome: Result | TrainingError
        try:
            out, said = process.communicate(msgspec.json.encode(job), timeout=timeout)
            outcome = self._read(process.returncode, out, said)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            outcome = TrainingError(f"the trainer was not done after {timeout:.0f} s and was ended")
        with self._lock:
            if self._process is not process:
                return
            self._process = None
        finished(outcome)

    def _read(self, status: int, out: bytes, said: bytes) -> Result | TrainingError:
        text = said.decode(errors="replace").strip()[-_SAID:]
        if status < 0:
            return TrainingError(f"the trainer was ended by signal {-status}{': ' + text if text else ''}")
        if status:
            return TrainingError(text or f"the trainer ended with status {status}")
        try:
            return msgspec.json.decode(out, type=Result)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return TrainingError(f"the trainer's result cannot be read: {error}")

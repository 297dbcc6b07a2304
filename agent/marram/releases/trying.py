"""A candidate is tried: the preflight on stored windows, then the trial beside the model that runs.

Both run in children: a model that crashes, leaks or hangs takes nothing with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from marram.bundle.manifest import InferRole
from marram.children.child import Child, ChildError
from marram.config.schema import Releases
from marram.loop import Loop
from marram.releases.gates import Limits, Measured, judge, together
from marram.releases.talk import Batch, Candidate, PreflightJob, TrialJob, Tried
from marram.stream.blocks import Windows

_BACKLOG = 64
_BATCH = 256 << 10  # bytes; what waits for a slow child stays small on a device with large windows
_DAYS = 30 * 86400.0


@dataclass
class Trying:
    """Everything but ``shadow`` is called by the loop's thread.

    limits: the gates. windows: stored windows to run in a preflight. preflight_timeout: seconds a child.
    live: windows that a trial needs. measured: the candidate, as far as it is. stored: what the preflight
    said.
    """

    loop: Loop
    limits: Limits
    store: str
    windows: int
    preflight_timeout: float
    live: int
    measured: Measured = field(default_factory=Measured)
    stored: Measured = field(default_factory=Measured)
    skipped: int = 0
    _child: Child | None = None
    _shadowed: Child | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return self._child.pid if self._child is not None else None

    def measure(
        self,
        forms: Sequence[Candidate],
        done: Callable[[dict[InferRole, Measured | str], float], None],
    ) -> None:
        """Measure each form of a candidate on stored windows, in a child of its own, one after the other.

        ``done`` hears what was measured of each, or why it does not run.
        """
        measured: dict[InferRole, Measured | str] = {}
        waiting = list(forms)

        def go_on(now: float) -> None:
            if not waiting:
                done(measured, now)
                return
            form, tried = waiting.pop(0), None

            def heard(frame: Tried | ChildError, now: float) -> None:
                nonlocal tried
                if isinstance(frame, Tried):
                    tried = frame
                else:
                    measured[form.role] = tried.candidate if tried is not None else str(frame)
                    go_on(now)

            job = PreflightJob(None, form, self.store, self.windows)
            self._run("marram.releases.preflight", Tried, job, self.preflight_timeout, heard).close()

        go_on(0.0)

    def preflight(self, running: Candidate, candidate: Candidate, done: Callable[[str, float], None]) -> None:
        """Try the candidate on stored windows; ``done`` hears why it may not run, "" when it may."""
        tried: Tried | None = None

        def heard(frame: Tried | ChildError, now: float) -> None:
            nonlocal tried
            if isinstance(frame, Tried):
                tried = frame
            else:
                self.stored = tried.candidate if tried else Measured()
                refusal = judge(tried.candidate, tried.running, self.limits) if tried else str(frame)
                done(refusal, now)

        job = PreflightJob(running, candidate, self.store, self.windows)
        self._run("marram.releases.preflight", Tried, job, self.preflight_timeout, heard).close()

    def settle(self, settings: Releases) -> None:
        """Other limits from the next preflight or trial on."""
        trial = settings.trial
        self.limits, self.windows, self.live = trial.limits(), trial.stored, trial.windows
        self.preflight_timeout = settings.preflight_timeout

    def trial(
        self,
        running: Candidate,
        candidate: Candidate,
        begun: Callable[[float], None],
        done: Callable[[str, float], None],
    ) -> None:
        """Run the candidate on live windows until it has failed or seen enough."""
        self.measured, self.skipped = Measured(), 0
        ready = False

        def heard(frame: Tried | ChildError, now: float) -> None:
            nonlocal ready
            if isinstance(frame, ChildError):
                done(str(frame), now)
                return
            if not ready:
                ready = True
                self._shadowed = self._child
                begun(now)
            self.measured = frame.candidate
            if self.measured.errors or self.measured.windows >= self.live:
                self.stop()
                candidate = together(frame.candidate, self.stored)
                done(judge(candidate, frame.running, self.limits), now)

        self._run("marram.releases.trial", Tried, TrialJob(running, candidate), _DAYS, heard)

    def shadow(self, windows: Windows) -> None:
        """Called by inference after each block: it never waits, and what is too much is passed over."""
        child = self._shadowed
        if child is None:
            return
        at_once = max(1, _BATCH // max(1, windows.values[:1].nbytes))
        for start in range(0, len(windows), at_once):
            part = windows[start : start + at_once]
            if child.backlog >= _BACKLOG:
                self.skipped += len(part)
                continue
            values = np.ascontiguousarray(part.values, "<f4").tobytes()
            child.send(Batch(values, tuple(part.labels.tolist())))

    def stop(self) -> None:
        """End the child, if there is one; nobody hears of it."""
        child, self._child, self._shadowed = self._child, None, None
        if child is not None:
            child.kill()

    def _run(
        self,
        module: str,
        kind: type[msgspec.Struct],
        job: msgspec.Struct,
        timeout: float,
        heard: Callable[..., None],
    ) -> Child:
        """Start a child and give it its job. Raises ChildError."""
        self.stop()
        child: Child

        def arrived(frame: msgspec.Struct | ChildError) -> None:
            self.loop.post(lambda now: settle(frame, now))

        def settle(frame: msgspec.Struct | ChildError, now: float) -> None:
            if child is not self._child:
                return
            if isinstance(frame, ChildError):
                self._child = self._shadowed = None
            heard(frame, now)

        child = self._child = Child(module, kind, arrived, timeout)
        child.send(job)
        return child

"""Inside the children that try a candidate: load it, run it window by window, count and measure."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from marram.bundle.bare import open_model
from marram.errors import BundleError, NotFiniteError, ProgramError
from marram.inference.model import int8_model, verdicts
from marram.programs.program import Array, ProgramOptions
from marram.releases.gates import Measured
from marram.releases.slots import read_bundle
from marram.releases.talk import Candidate, Tried
from marram.stream.blocks import UNLABELLED, Windows

UNKNOWN = UNLABELLED
_TIMES, _NOISE = 512, 64


@dataclass
class Pair:
    """The running model and a candidate, on the same windows in turns: a busy machine is fair to both."""

    running: Subject | None
    candidate: Subject

    @staticmethod
    def load(running: Candidate | None, candidate: Candidate) -> Pair:
        """Raises BundleError or ProgramError when the candidate does not load."""
        if running is None:
            return Pair(None, Subject(candidate))
        first: Subject | None = None
        try:
            first = Subject(running)
            first.fix_memory()  # before the candidate takes its own
        except (BundleError, ProgramError) as error:
            # Whatever runs here has broken: the candidate, which may heal that, is tried on its own.
            print(f"the running model does not load: {error}", file=sys.stderr)
        return Pair(first, Subject(candidate))

    def run(self, values: NDArray[np.float32], labels: Sequence[int]) -> None:
        """values: float32 (n, channels, length). labels: of the windows, -1 where there is none."""
        for value, label in zip(values, labels, strict=True):
            running = self.running.predict(value) if self.running is not None else UNKNOWN
            self.candidate.compare(self.candidate.predict(value), running, label)

    def warm_up(self, count: int) -> None:
        """Run both on noise, without comparing them."""
        manifest = self.candidate.manifest
        shape = (min(count, _NOISE), len(manifest.channels), manifest.length)
        for value in np.random.default_rng(0).normal(size=shape).astype(np.float32):
            if self.running is not None:
                self.running.predict(value)
            self.candidate.predict(value)

    def tried(self) -> Tried:
        """All so far."""
        return Tried(
            self.candidate.finish(), self.running.finish() if self.running is not None else Measured()
        )


@dataclass
class Subject:
    """A loaded model under measurement. Raises BundleError or ProgramError when it cannot be loaded."""

    candidate: Candidate
    measured: Measured = field(default_factory=Measured)
    _memory: int | None = None
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES))

    def __post_init__(self) -> None:
        configured = open_model(Path(self.candidate.configured), self.candidate.description)
        before = _resident("VmRSS")
        _forget_peak()
        bundle = read_bundle(self.candidate, configured)
        if bundle.manifest.family != configured.manifest.family:
            raise BundleError(
                f"{bundle.manifest.name} {bundle.manifest.version}: is of another family than the configured "
                f"model ({configured.manifest.name})"
            )
        options = ProgramOptions(self.candidate.threads, self.candidate.providers)
        model = int8_model(bundle, options, self.candidate.role)
        self._before = before
        self._run = model.run
        self._model = replace(model, run=self._timed)
        self.manifest = bundle.manifest
        self._names = {name: place for place, name in enumerate(verdicts(bundle.manifest))}

    def predict(self, value: NDArray[np.float32]) -> int:
        """Place of the window's label among ``verdicts``; UNKNOWN where the model failed.

        value: float32 (channels, length). One at a time, as they come: a failure is then one window's.
        """
        self._count(windows=1)
        try:
            return self._names[self._model.predict(_window(value), np.zeros(1))[0].label]
        except ProgramError as error:
            self._count(errors=1, not_finite=isinstance(error, NotFiniteError))
            self.measured = msgspec.structs.replace(
                self.measured, problem=self.measured.problem or str(error)
            )
            return UNKNOWN

    def compare(self, own: int, running: int, label: int) -> None:
        """Count agreement with the running model, and what both had right."""
        if UNKNOWN in (own, running):
            return
        self._count(compared=1, agreed=own == running)
        if label != UNKNOWN:
            self._count(labelled=1, correct=own == label, running_correct=running == label)

    def finish(self) -> Measured:
        """What was measured so far, with time and memory."""
        cpu = median(self._times) * 1e6 if self._times else 0.0
        memory = self._memory if self._memory is not None else self._grown()
        self.measured = msgspec.structs.replace(self.measured, cpu_us=cpu, memory=memory)
        return self.measured

    def fix_memory(self) -> None:
        """What was taken until now is the model's; what comes is another's."""
        self._memory = self._grown()

    def _grown(self) -> int:
        return max(0, _resident("VmHWM") - self._before)

    def _count(self, **more: int) -> None:
        one = self.measured
        counts = {name: getattr(one, name) + number for name, number in more.items()}
        self.measured = msgspec.structs.replace(one, **counts)

    def _timed(self, x: NDArray[np.float32]) -> dict[str, Array]:
        began = time.process_time()
        outputs = self._run(x)
        self._times.append(time.process_time() - began)
        return outputs


def _window(value: NDArray[np.float32]) -> Windows:
    zeros = np.zeros(1)
    return Windows(zeros, zeros, value[np.newaxis], np.full(1, UNLABELLED, np.int16), np.zeros(1, np.bool_))


def _resident(field_name: str) -> int:
    """VmRSS (now) or VmHWM (the most since ``_forget_peak``) of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field_name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then the peak of the start counts too, for both models alike

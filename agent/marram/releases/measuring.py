"""Inside the children that try a candidate: load it, run it window by window, count and measure."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from marram.bundle.file import read
from marram.errors import BundleError, NotFiniteError, ProgramError
from marram.inference.model import int8_model, verdicts
from marram.programs.program import Array, ProgramOptions
from marram.releases.gates import Measured
from marram.releases.slots import read_bundle
from marram.releases.talk import Candidate
from marram.stream.blocks import Windows

UNKNOWN = -1
_TIMES = 512


@dataclass
class Subject:
    """A loaded model under measurement. Raises BundleError or ProgramError when it cannot be loaded."""

    candidate: Candidate
    measured: Measured = field(default_factory=Measured)
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES))

    def __post_init__(self) -> None:
        configured = read(Path(self.candidate.configured))
        before = _resident("VmRSS")
        _forget_peak()
        bundle = read_bundle(Path(self.candidate.file), self.candidate.kind, self.candidate.name, configured)
        if bundle.manifest.family != configured.manifest.family:
            raise BundleError(
                f"{bundle.manifest.name} {bundle.manifest.version}: is of another family than the configured "
                f"model ({configured.manifest.name})"
            )
        model = int8_model(bundle, ProgramOptions(self.candidate.threads, self.candidate.providers))
        self._before = before
        self._run = model.run
        self._model = replace(model, run=self._timed)
        self.manifest = bundle.manifest
        self._names = {name: place for place, name in enumerate(verdicts(bundle.manifest))}

    def predict(self, values: NDArray[np.float32]) -> list[int]:
        """Place of each window's label among ``verdicts``; UNKNOWN where the model failed.

        values: float32 (n, channels, length).
        """
        found = []
        for value in values:
            # One at a time: that is how they come, and a failure is one window's.
            window = _windows(value[np.newaxis])
            changes: dict[str, object] = {"windows": self.measured.windows + 1}
            try:
                label = self._model.predict(window, np.zeros(1))[0].label
                found.append(self._names[label])
            except ProgramError as error:
                found.append(UNKNOWN)
                changes["errors"] = self.measured.errors + 1
                changes["not_finite"] = self.measured.not_finite + isinstance(error, NotFiniteError)
                changes["problem"] = self.measured.problem or str(error)
            self.measured = _replaced(self.measured, changes)
        return found

    def compare(self, own: Sequence[int], running: Sequence[int], labels: Sequence[int]) -> None:
        """Count agreement with the running model, and what both had right."""
        both = [pair for pair in zip(own, running, labels, strict=True) if UNKNOWN not in pair[:2]]
        known = [pair for pair in both if pair[2] != UNKNOWN]
        one = self.measured
        self.measured = _replaced(
            one,
            {
                "compared": one.compared + len(both),
                "agreed": one.agreed + sum(mine == theirs for mine, theirs, _ in both),
                "labelled": one.labelled + len(known),
                "correct": one.correct + sum(mine == label for mine, _, label in known),
                "running_correct": one.running_correct + sum(theirs == label for _, theirs, label in known),
            },
        )

    def finish(self) -> Measured:
        """What was measured so far, with time and memory."""
        memory = max(0, _resident("VmHWM") - self._before)
        cpu = median(self._times) * 1e6 if self._times else 0.0
        self.measured = _replaced(self.measured, {"cpu_us": cpu, "memory": memory})
        return self.measured

    def _timed(self, x: NDArray[np.float32]) -> dict[str, Array]:
        began = time.process_time()
        outputs = self._run(x)
        self._times.append(time.process_time() - began)
        return outputs


def _windows(values: NDArray[np.float32]) -> Windows:
    count = len(values)
    zeros = np.zeros(count)
    return Windows(zeros, zeros, values, np.full(count, -1, np.int16), np.zeros(count, np.bool_))


def _replaced(measured: Measured, changes: dict[str, object]) -> Measured:
    import msgspec

    return msgspec.structs.replace(measured, **changes)


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

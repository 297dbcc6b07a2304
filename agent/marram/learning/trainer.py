"""The trainer: a child process that runs ``train.onnx`` on the stored windows and exits.

``python -I -m marram.learning.trainer PARENT`` (the daemon's process id) reads one job (JSON, ``Job``) from
standard input, writes the new parameters to the job's folder and one result (JSON, ``Result``) to standard
output. It steps back behind all else, bounds its own memory, and dies with its parent. A crash, a leak or
an out-of-memory kill ends the child, never inference.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

import msgspec

from marram.errors import MarramError


class Job(msgspec.Struct, frozen=True):
    """What to train.

    bundle, windows: files. parameters: file of little-endian float32 (P,), None for the bundle's own.
    output: folder for ``parameters.f32`` (and ``normal.json``). epochs, batch, learning_rate, mu: as in an
    offer. seed: of the shuffling. minimum: windows that there must be. calibrate: measure what normal
    scores are (reconstruct models). memory: bytes. nice, threads: as in the configuration.
    """

    bundle: str
    windows: str
    parameters: str | None
    output: str
    epochs: int
    batch: int
    learning_rate: float
    mu: float
    seed: int
    minimum: int
    calibrate: bool
    memory: int
    nice: int
    threads: int


class Measured(msgspec.Struct, frozen=True):
    """Sums over held-out windows, as means. accuracy: None where it has no meaning."""

    count: int
    loss: float
    accuracy: float | None


class Result(msgspec.Struct, frozen=True):
    """What came out. samples: windows trained on. steps: optimiser steps.

    peak_rss: the most resident memory of this process, bytes. pss: its proportional part of shared pages and
    all of its own, bytes, when the training was done; 0 where the kernel does not tell.
    """

    samples: int
    steps: int
    loss: float
    before: Measured
    after: Measured
    seconds: float
    peak_rss: int
    pss: int


class NormalFile(msgspec.Struct, frozen=True):
    """``normal.json``: what the scores of normal held-out windows look like; see ``inference.Normal``."""

    threshold: float
    channel_mean: list[float]
    channel_spread: list[float]


def step_back(nice: int, memory: int, parent: int) -> None:
    """Lower priority, first to go when memory runs out, bounded memory, no life after the parent's.

    parent: process id that the parent said is its own: it may have died before this process could look.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit("the daemon is gone")
    os.nice(nice)
    # A sandbox may have no writable /proc; the memory limit below holds all the same.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def explain(error: Exception, memory: int) -> str:
    """One line about what ended a child whose memory was bounded to ``memory`` bytes."""
    text = str(error)
    # The second and third are onnxruntime's words.
    if isinstance(error, MemoryError) or "bad_alloc" in text or "Failed to allocate memory" in text:
        return f"the memory limit of {memory >> 20} MiB was reached"
    return text if isinstance(error, MarramError) else f"{type(error).__name__}: {text}"


def _train(job: Job) -> Result:
    # Imported after the limits are set, so that they hold for the libraries too.
    from marram.learning.training import train

    return train(job)


def main() -> int:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    step_back(job.nice, job.memory, int(sys.argv[1]))
    try:
        result = _train(job)
    except Exception as error:
        print(explain(error, job.memory), file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

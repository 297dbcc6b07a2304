"""The trainer: a child process that runs ``train.onnx`` on the stored windows and exits.

``python -I -m marram.learning.trainer PARENT`` (the daemon's process id) reads one ``Job``, writes the new
parameters to the job's folder and says one ``Result`` or ``Failure``. It steps back behind all else, bounds
its own memory, and dies with its parent. A crash, a leak or an out-of-memory kill ends the child, never
inference.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from marram.children.frames import frame_pipes, read_frame, write_frame
from marram.children.limits import explain, step_back


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


class Result(msgspec.Struct, frozen=True, tag=True):
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


class Failure(msgspec.Struct, frozen=True, tag=True):
    """Why nothing came out."""

    reason: str


TOLD: Any = Result | Failure


class NormalFile(msgspec.Struct, frozen=True):
    """``normal.json``: what the scores of normal held-out windows look like; see ``inference.Normal``."""

    threshold: float
    channel_mean: list[float]
    channel_spread: list[float]


def _train(job: Job) -> Result:
    # Imported after the limits are set, so that they hold for the libraries too.
    from marram.learning.training import train

    return train(job)


def main() -> int:
    into, out = frame_pipes()
    job = read_frame(into, Job)
    if job is None:
        return 1
    step_back(job.nice, job.memory, int(sys.argv[1]))
    try:
        write_frame(out, _train(job))
    except Exception as error:
        write_frame(out, Failure(explain(error, job.memory)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

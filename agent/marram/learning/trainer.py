"""The trainer: a child process that runs ``train.onnx`` on the stored windows and exits.

``python -I -m marram.learning.trainer PARENT`` (the daemon's process id) reads one ``Job``, writes the new
parameters to the job's folder and says one ``Result`` or ``Failure``; or one ``Check``, and says an
``Int8Outcome``. It steps back behind all else, bounds
its own memory, and dies with its parent. A crash, a leak or an out-of-memory kill ends the child, never
inference.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from marram.children.frames import frame_pipes, read_frame, write_frame
from marram.children.limits import explain, step_back

CONTRIBUTION = "contribution.cbor"
"""The file with what a device tells in a round of a forest: the payload of ``marram.wire.trees``."""


class NormalFile(msgspec.Struct, frozen=True):
    """``normal.json``: what the scores of normal held-out windows look like; see ``inference.Normal``."""

    threshold: float
    channel_mean: list[float]
    channel_spread: list[float]


class Int8Limits(msgspec.Struct, frozen=True):
    """How good int8 has to be; as in the configuration. fast: no slower than float32."""

    agreement: float
    accuracy: float
    score: float
    fast: bool = False


class Job(msgspec.Struct, frozen=True, tag=True):
    """What to train.

    bundle, windows: files. parameters: file of little-endian float32 (P,), None for the bundle's own.
    output: folder for ``parameters.f32`` (and ``normal.json``). epochs, batch, learning_rate, mu: as in an
    offer. seed: of the shuffling. minimum: windows that there must be. calibrate: measure what normal
    scores are (reconstruct models). memory: bytes. nice, threads: as in the configuration. int8: turn the new
    parameters into int8 (``int8.safetensors``) if it is this good. ranges: measure the ranges of the
    activations under the parameters that training begins with. trees: for a round of a forest: grow so many,
    and leave ``contribution.cbor``.
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
    int8: Int8Limits | None = None
    ranges: bool = False
    trees: int = 0


class Check(msgspec.Struct, frozen=True, tag=True):
    """Compare the device's own int8 with its float32 on the windows that came since the last training.

    bundle, windows, parameters, arrays: files. normal, normal_int8: of a reconstruct model.
    """

    bundle: str
    windows: str
    parameters: str
    arrays: str
    limits: Int8Limits
    normal: NormalFile | None
    normal_int8: NormalFile | None
    memory: int
    nice: int
    threads: int


WORK: Any = Job | Check


class Measured(msgspec.Struct, frozen=True):
    """Sums over held-out windows, as means. accuracy: None where it has no meaning."""

    count: int
    loss: float
    accuracy: float | None


class Int8Outcome(msgspec.Struct, frozen=True, tag=True):
    """Whether int8 may run, and what was measured on so many windows.

    reason: why it may not. agreement: part of them of which float32 and int8 say the same. fp32, int8:
    accuracy. score: mean difference of scores, in their mean. normal: of the int8 scores. fp32_us, int8_us:
    what one window takes, where speed counts.
    """

    used: bool
    reason: str
    windows: int = 0
    agreement: float | None = None
    fp32: float | None = None
    int8: float | None = None
    score: float | None = None
    normal: NormalFile | None = None
    fp32_us: float | None = None
    int8_us: float | None = None


class Result(msgspec.Struct, frozen=True, tag=True):
    """What came out. samples: windows trained on. steps: of the optimiser, or trees that were grown.

    peak_rss: the most resident memory of this process, bytes. pss: its proportional part of shared pages and
    all of its own, bytes, when the training was done; 0 where the kernel does not tell. int8: where it was
    asked for. ranges: (minimum, maximum) of each activation, where it was asked for and there were enough
    windows.
    """

    samples: int
    steps: int
    loss: float
    before: Measured
    after: Measured
    seconds: float
    peak_rss: int
    pss: int
    int8: Int8Outcome | None = None
    ranges: tuple[list[float], list[float]] | None = None


class Failure(msgspec.Struct, frozen=True, tag=True):
    """Why nothing came out."""

    reason: str


TOLD: Any = Result | Int8Outcome | Failure


def _do(work: Job | Check) -> Result | Int8Outcome:
    # Imported after the limits are set, so that they hold for the libraries too.
    from marram.learning.training import check, train

    return train(work) if isinstance(work, Job) else check(work)


def main() -> int:
    into, out = frame_pipes()
    job = read_frame(into, WORK)
    if job is None:
        return 1
    step_back(job.nice, job.memory, int(sys.argv[1]))
    try:
        write_frame(out, _do(job))
    except Exception as error:
        write_frame(out, Failure(explain(error, job.memory)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

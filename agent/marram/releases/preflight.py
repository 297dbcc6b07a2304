"""The preflight of a model, in a child process: load it, check it, run it on real windows.

``python -I -m marram.releases.preflight PARENT`` reads a ``PreflightJob`` from standard input and writes one
``Tried``. A file that crashes its runtime or takes too much memory ends this child, never the daemon.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from marram.children.frames import frame_pipes, read_frame, write_frame
from marram.releases.talk import PreflightJob, Tried

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from marram.bundle.manifest import Manifest


def _tried(job: PreflightJob) -> Tried:
    from marram.releases.measuring import Pair

    pair = Pair.load(job.running, job.candidate)
    values, labels = _stored(job, pair.candidate.manifest)
    if len(values):
        pair.run(values, labels)
    else:
        # Does it run, how long does it take? What two models make of noise says nothing of them.
        pair.warm_up(job.count)
    return pair.tried()


def _stored(job: PreflightJob, manifest: Manifest) -> tuple[NDArray[np.float32], list[int]]:
    """The newest stored windows and their labels, perhaps none."""
    import numpy as np

    from marram.errors import TrainingError
    from marram.learning.store import TrainingSet, read_training_set

    shape = (len(manifest.channels), manifest.length)
    sets: tuple[TrainingSet, ...] = ()
    if job.windows and Path(job.windows).exists():
        with suppress(TrainingError, ValueError):  # a store of another model's windows
            sets = read_training_set(Path(job.windows), shape, labelled=False)
    values = np.concatenate([one.values[-job.count :] for one in sets] or [np.empty((0, *shape), np.float32)])
    labels = [label for one in sets for label in one.labels[-job.count :].tolist()]
    return values, labels


def main() -> int:
    from marram.children.limits import explain, step_back

    into, out = frame_pipes()
    job = read_frame(into, PreflightJob)
    if job is None:
        return 1
    step_back(job.candidate.nice, job.candidate.memory, int(sys.argv[1]))
    try:
        tried = _tried(job)
    except Exception as error:
        print(explain(error, job.candidate.memory), file=sys.stderr)
        return 1
    write_frame(out, tried)
    return 0


if __name__ == "__main__":
    sys.exit(main())

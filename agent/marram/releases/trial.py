"""The trial of a candidate, in a child process: it predicts live windows beside the model that runs.

``python -I -m marram.releases.trial PARENT`` reads a ``TrialJob``, then ``Batch`` after ``Batch``; it says
``Tried`` once it is ready and after each of them, all windows so far together.
"""

from __future__ import annotations

import sys
from typing import IO

from marram.children.frames import frame_pipes, read_frame, write_frame
from marram.releases.talk import Batch, TrialJob


def _try(job: TrialJob, into: IO[bytes], out: IO[bytes]) -> None:
    import numpy as np

    from marram.releases.measuring import Pair

    pair = Pair.load(job.running, job.candidate)
    manifest = pair.candidate.manifest
    shape = (len(manifest.channels), manifest.length)
    write_frame(out, pair.tried())
    while (batch := read_frame(into, Batch)) is not None:
        pair.run(np.frombuffer(batch.values, "<f4").reshape(-1, *shape), batch.labels)
        write_frame(out, pair.tried())


def main() -> int:
    from marram.children.limits import explain, step_back

    into, out = frame_pipes()
    job = read_frame(into, TrialJob)
    if job is None:
        return 1
    step_back(job.candidate.nice, job.candidate.memory, int(sys.argv[1]))
    try:
        _try(job, into, out)
    except Exception as error:
        print(explain(error, job.candidate.memory), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The preflight of a bundle, in a child process: load it, check it against what runs, run it.

``python -I -m marram.releases.preflight CANDIDATE RUNNING MEMORY PARENT`` prints nothing and ends with
status 0 when the candidate may run, else prints the reason and ends with status 1. PARENT is the daemon's
process id: without it this process ends too. A bundle that crashes its runtime
or takes too much memory ends this child, never the daemon.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_TIMEOUT = 120.0


def preflight(candidate: Path, running: Path, memory: int) -> str:
    """Run the child; "" when the candidate may run, else why not. memory: bytes."""
    command = [
        sys.executable,
        "-I",
        "-m",
        "marram.releases.preflight",
        str(candidate),
        str(running),
        str(memory),
        str(os.getpid()),
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"the candidate was not ready after {_TIMEOUT:.0f} s"
    except OSError as error:
        return f"the preflight cannot be started: {error.strerror or error}"
    if done.returncode == 0:
        return ""
    said = (done.stdout or done.stderr).decode(errors="replace").strip()[-500:]
    if done.returncode < 0:
        return f"the candidate ended its process by signal {-done.returncode}"
    return said or f"the preflight ended with status {done.returncode}"


def _check(candidate: Path, running: Path) -> None:
    import numpy as np

    from marram.bundle.file import read
    from marram.errors import BundleError
    from marram.inference.model import int8_model
    from marram.programs.program import ProgramOptions
    from marram.stream.blocks import Windows

    new, old = read(candidate), read(running).manifest
    if new.manifest.family != old.family:
        raise BundleError(f"{candidate}: is of another family than the model that runs ({old.name})")
    model = int8_model(new, ProgramOptions())
    rng = np.random.default_rng(0)
    for count in (1, 16):
        values = rng.normal(size=(count, len(old.channels), old.length)).astype(np.float32)
        times = np.zeros(count)
        labels = np.full(count, -1, np.int16)
        model.predict(Windows(times, times, values, labels, np.zeros(count, np.bool_)), times)


def main() -> int:
    from marram.learning.trainer import explain, step_back

    memory = int(sys.argv[3])
    step_back(nice=10, memory=memory, parent=int(sys.argv[4]))
    try:
        _check(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        print(explain(error, memory))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

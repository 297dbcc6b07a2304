"""The process in which one program is timed: ``python -m marram_cloud.compression.probe FOLDER RUNS``.

FOLDER holds ``program.onnx`` or ``program.tflite``, and ``inputs.npz``; the figures go to standard output as
JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
from marram.programs.program import load

_MODULES = {"onnx": "onnxruntime", "tflite": "ai_edge_litert.interpreter"}
_WARM_UP = 20
_MOST_SECONDS = 10.0
_FEWEST = 20


def main(folder: Path, runs: int) -> dict[str, float]:
    """p50, p99 in microseconds; memory, process in bytes."""
    with np.load(folder / "inputs.npz") as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    (file,) = folder.glob("program.*")
    runtime = file.suffix.removeprefix(".")
    content = file.read_bytes()
    import_module(_MODULES[runtime])  # its own memory is not the program's
    before = _resident()
    program = load(content, runtime)
    for _ in range(_WARM_UP):
        program(**inputs)
    after = _resident()
    times: list[float] = []
    end = time.perf_counter() + _MOST_SECONDS
    while len(times) < runs and (len(times) < _FEWEST or time.perf_counter() < end):
        start = time.perf_counter()
        program(**inputs)
        times.append(time.perf_counter() - start)
    return {
        "p50": float(np.percentile(times, 50)) * 1e6,
        "p99": float(np.percentile(times, 99)) * 1e6,
        "memory": max(0, after - before),
        "process": _peak(),
    }


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _peak() -> int:
    """Not ``ru_maxrss``, which begins with what the parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))

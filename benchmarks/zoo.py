"""Training steps of all that is in tests/zoo, on one thread: exported, in PyTorch eager and compiled, and by
onnxruntime-training."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Figure, Result, at_most
from tests.zoo.projects import ZOO, Entry

if TYPE_CHECKING:
    from tests.zoo.eager import Labels, Windows

_BATCH, _RUNS, _SECONDS = 16, 7, 0.4
_CONVOLUTIONAL, _OTHER, _MEMORY = 0.9, 1.0, 1.0
_SIDES = ("exported", "eager", "compiled")


def measure() -> Result:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        for entry in ZOO:
            folder = entry.write(Path(name) / entry.name)
            subprocess.run(
                [sys.executable, "-m", "marram_cloud.cli", "workshop", "build", str(folder)],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            figures += _figures(entry, folder)
    return Result(
        "The zoo's training steps",
        "python -m benchmarks zoo",
        f"Batches of {_BATCH}. The exported step and PyTorch eager take turns in one process: medians of "
        f"{_RUNS} runs of {_SECONDS:g} s. Compiled PyTorch runs after them, and onnxruntime-training 1.19.2 "
        "on the same loss, exported from PyTorch, in an environment of its own. Memory is the peak of a "
        "process of its own that does one side alone.",
        figures,
    )


def _figures(entry: Entry, folder: Path) -> list[Figure]:
    times = _child(folder, "times")
    memory = {side: _child(folder, side)["peak"] for side in _SIDES[:2]}
    ours, eager, compiled = (times[side] for side in _SIDES)
    limit = _CONVOLUTIONAL if entry.convolutional else _OTHER
    against = (
        f"{ours / compiled:.2f} of compiled PyTorch's time" if compiled else "PyTorch does not compile it"
    )
    other = _child(folder, "onnxruntime-training")
    return [
        at_most(f"{entry.name}: exported step / PyTorch eager", ours / eager, limit),
        at_most(f"{entry.name}: peak memory / PyTorch's", memory["exported"] / memory["eager"], _MEMORY),
        Figure(
            f"{entry.name}: a step exported, in PyTorch; memory",
            f"{ours:.2f} ms, {eager:.2f} ms ({against}); {memory['exported'] / 2**20:.0f} MiB, "
            f"{memory['eager'] / 2**20:.0f} MiB",
        ),
        Figure(
            f"{entry.name}: exported step / onnxruntime-training",
            f"{ours / float(other['step']):.2f}" if "step" in other else str(other["why"]),
        ),
    ]


def _child(folder: Path, what: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.zoo", str(folder), what],
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _main(folder: Path, what: str) -> dict[str, Any]:
    """In a child: the times of all sides, the peak memory of one, or what onnxruntime-training does."""
    import numpy as np
    from marram.bundle.file import read

    entry = next(one for one in ZOO if one.name == folder.name)
    x, y = entry.windows(_BATCH, seed=1)
    if what == "onnxruntime-training":
        return _other(folder, x, y)
    steps: dict[str, Callable[[], float]] = {}
    if what in ("times", "exported"):
        from tests.zoo.exported import Exported

        exported = Exported(read(folder / f"{entry.name}.marram"))
        steps["exported"] = lambda: exported.step(x, y)
    if what in ("times", "eager"):
        import torch
        from marram_cloud.workshop.project import Project

        from tests.zoo.eager import Eager

        torch.set_num_threads(1)
        project = Project(folder)
        eager = Eager(project)
        steps["eager"] = lambda: eager.step(x, y)
    if what != "times":
        _milliseconds(steps[what])
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_RUNS + 1):
        for name, step in steps.items():
            taken[name].append(_milliseconds(step))
    times = {name: statistics.median(those[1:]) for name, those in taken.items()}
    compiled = Eager(project, compiled=True)
    try:
        compiled.step(x, y)
    except Exception:  # whatever the compiler says: then there is nothing to compare with
        return {**times, "compiled": 0.0}
    runs = [_milliseconds(lambda: compiled.step(x, y)) for _ in range(_RUNS)]
    return {**times, "compiled": float(np.median(runs))}


def _other(folder: Path, x: Windows, y: Labels) -> dict[str, Any]:
    from marram_cloud.workshop.optimisers import AdamW
    from marram_cloud.workshop.project import Project

    from benchmarks.onnxruntime_training import step
    from tests.zoo.eager import Eager

    project = Project(folder)
    training = project.about.training
    adamw = isinstance(training.optimiser, AdamW)
    with tempfile.TemporaryDirectory() as name:
        found = step(Eager(project), adamw, training.learning_rate, x, y, Path(name) / "step")
    return {"step": found} if isinstance(found, float) else {"why": found}


def _milliseconds(step: Callable[[], float]) -> float:
    """Of one step."""
    began, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - began < _SECONDS:
        step()
        count += 1
    return (time.perf_counter() - began) / count * 1000


if __name__ == "__main__":
    print(json.dumps(_main(Path(sys.argv[1]), sys.argv[2])))

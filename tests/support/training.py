"""Real training on real windows: a filled store, a job for the trainer child, a workshop around both."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

from marram.config.schema import Governor, Learning, Trainer
from marram.device.resources import Resources
from marram.errors import TrainingError
from marram.learning.child import TrainerChild
from marram.learning.store import SampleStore, StoreSettings
from marram.learning.trainer import Job, Result
from marram.learning.work import Workshop
from marram.stream.blocks import Windows

from tests.support.windows import SHOULDER, bundle, shoulder_windows

ENDS = 60.0  # far more than any of these trainings takes
FREE = Governor(max_cpu=100, min_free_memory=0, on_battery=True, min_battery=0)


def filled_store(path: Path, windows: Windows | None = None, model: Path = SHOULDER) -> SampleStore:
    manifest = bundle(model).manifest
    shape = (len(manifest.channels), manifest.length)
    store = SampleStore(path, manifest.family, shape, StoreSettings(64 << 20, 1e12, 30.0, 0.2), seed=1)
    store.add(shoulder_windows(1) if windows is None else windows, 0.0)
    store.flush(0.0)
    return store


def job(folder: Path, **changes: Any) -> Job:
    fields = {
        "bundle": str(SHOULDER), "windows": str(folder / "windows.db"), "parameters": None,
        "output": str(folder / "training"), "epochs": 2, "batch": 16, "learning_rate": 0.05, "mu": 0.0,
        "seed": 1, "minimum": 1, "calibrate": False, "memory": 1 << 30, "nice": 10, "threads": 1,
        **changes,
    }  # fmt: skip
    return Job(**fields)


def run(work: Job, timeout: float = ENDS, child: TrainerChild | None = None) -> Result | TrainingError:
    """Train in a real child process and wait for its end."""
    ends: queue.Queue[Result | TrainingError] = queue.Queue()
    (child or TrainerChild()).start(work, timeout, ends.put)
    return ends.get(timeout=ENDS)


def workshop(
    folder: Path, store: SampleStore, model: Path = SHOULDER, governor: Governor = FREE, **trainer: Any
) -> Workshop:
    return Workshop(
        config=Learning(governor=governor, trainer=Trainer(memory=1 << 30, **trainer)),
        manifest=bundle(model).manifest,
        bundle=model,
        windows=folder / "windows.db",
        folder=folder / "training",
        store=store,
        resources=Resources(),
        child=TrainerChild(),
    )


class Loop:
    """The daemon's loop, turned by hand; ``Loop.post`` is all that is used of it."""

    def __init__(self) -> None:
        self.calls = queue.Queue()

    def post(self, call) -> None:
        self.calls.put(call)

    def turn(self, now) -> None:
        self.calls.get(timeout=ENDS)(now)

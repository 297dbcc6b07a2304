"""One exported training step in onnxruntime against the same step in PyTorch eager, one thread each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from marram.programs.program import ProgramOptions
from marram_cloud.workshop.project import Project
from torch import nn

from benchmarks.report import Figure, Result, at_most
from examples.shoulder import people

_BATCHES = (16, 32)
_STEPS = 150
_RUNS = 7


def measure() -> Result:
    figures: list[Figure] = []
    for batch in _BATCHES:
        ours, eager = _compare(batch)
        figures.append(at_most(f"batch {batch}: exported step / PyTorch eager", ours / eager, 1.0))
        figures.append(
            Figure(f"batch {batch}: a step in onnxruntime, in PyTorch", f"{ours:.2f} ms, {eager:.2f} ms")
        )
    return Result(
        "The training step",
        "python -m benchmarks training_step",
        "Forward, loss, gradient and SGD with momentum of the demo's model. The two take turns; "
        f"medians of {_RUNS} runs of {_STEPS} steps.",
        figures,
    )


def _compare(batch: int) -> tuple[float, float]:
    """Milliseconds of a step: (exported, PyTorch eager)."""
    torch.set_num_threads(1)
    windows = people.windows(1)
    x, y = windows.values[:batch], windows.labels[:batch].astype(np.int64)
    exported, eager = _exported(x, y), _eager(x, y)
    ours, theirs = [], []
    for _ in range(_RUNS + 1):
        ours.append(_milliseconds(exported))
        theirs.append(_milliseconds(eager))
    return statistics.median(ours[1:]), statistics.median(theirs[1:])


def _exported(x: np.ndarray, y: np.ndarray) -> Callable[[], None]:
    bundle = people.bundle()
    program = bundle.program("train", ProgramOptions(threads=1))
    start = bundle.parameters()
    fixed = {
        "x": x, "y": y, "weight": np.ones(len(x), np.float32), "learning_rate": np.array(0.01, np.float32),
        "anchor": start, "mu": np.array(0, np.float32),
    }  # fmt: skip
    held = {"parameters": start, "state": np.zeros(bundle.manifest.training.state, np.float32)}

    def step() -> None:
        out = program(**held, **fixed)
        held["parameters"], held["state"] = out["new_parameters"], out["new_state"]

    return step


def _eager(x: np.ndarray, y: np.ndarray) -> Callable[[], None]:
    module = Project(people.FOLDER).module
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    inputs, labels = torch.from_numpy(x.copy()), torch.from_numpy(y)

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(inputs), labels).backward()
        optimiser.step()

    return step


def _milliseconds(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(_STEPS):
        step()
    return (time.perf_counter() - began) / _STEPS * 1000

"""What a device trained itself, in int8 against float32: time and memory of inference, accuracy."""

from __future__ import annotations

import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from marram.bundle.file import read
from marram.device.resources import Resources
from marram.learning.own import Own
from marram.learning.trainer import Int8Limits, NormalFile, Result
from marram.learning.work import Learnt
from marram.programs.program import ProgramOptions

from benchmarks.report import Figure
from benchmarks.report import Result as Page
from tests.support.training import filled_store, job, run
from tests.support.windows import HOST, SHOULDER, bundle, host_windows, shoulder_windows

_PEOPLE = (1, 2, 3, 4, 5)
_STRANGER = 6
_RUNS, _CALLS = 7, 2000
_ANY = Int8Limits(0.0, 1.0, 1e9)
_MIB = float(1 << 20)


@dataclass(frozen=True)
class Cost:
    """microseconds: of one call, by windows in it. pss: of a process that runs this model alone, bytes."""

    microseconds: dict[int, float]
    pss: int


def measure() -> Page:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        for model, path in (("shoulder", SHOULDER), ("host", HOST)):
            folder = Path(name) / model
            result = _learn(folder, path)
            assert result.int8 is not None
            fp32, int8 = (_apart(folder, path, form) for form in (False, True))
            for batch in fp32.microseconds:
                figures.append(_pair(f"{model}: a call with {batch} windows", fp32, int8, batch))
            figures.append(
                Figure(
                    f"{model}: memory of a process that runs it, float32 and int8",
                    f"{fp32.pss / _MIB:.1f} and {int8.pss / _MIB:.1f} MiB PSS",
                )
            )
        for person in _PEOPLE:
            figures.append(_accuracy(Path(name) / f"person-{person}", person))
    return Page(
        "A device's own parameters in int8",
        "python -m benchmarks own_int8",
        "The trainer child trains, quantises in numpy and compares; then the same parameters run through "
        "`predict.onnx` in float32 and `infer.onnx` in int8, each in a process of its own, one thread. "
        f"Medians of {_RUNS} runs of {_CALLS} calls. Accuracy: 30 epochs on one person's recording; held-out "
        f"windows are that person's, the stranger is person {_STRANGER}.",
        figures,
    )


def _learn(folder: Path, path: Path, person: int = 1) -> Result:
    """Train in the child, and keep what it learnt as a device does."""
    reconstruct = path == HOST
    windows = host_windows() if reconstruct else shoulder_windows(person)
    filled_store(folder / "windows.db", windows, path).close(0.0)
    result = run(
        job(folder, bundle=str(path), epochs=30, learning_rate=0.03, calibrate=reconstruct, int8=_ANY)
    )
    assert isinstance(result, Result), result
    output = folder / "training"
    parameters = np.fromfile(output / "parameters.f32", "<f4")
    normal = NormalFile(1.0, [0.0] * 9, [1.0] * 9) if reconstruct else None
    learnt = Learnt(parameters, normal, result, (output / "int8.safetensors").read_bytes())
    Own(folder / "own", bundle(path)).save(learnt, 0.0)
    return result


def _apart(folder: Path, path: Path, int8: bool) -> Cost:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_cost, folder, path, int8).result()


def _cost(folder: Path, path: Path, int8: bool) -> Cost:
    models = Own(folder / "own", read(path)).models(ProgramOptions(), int8)
    assert models is not None
    times = {}
    for batch in (1, 32):
        x = (host_windows() if path == HOST else shoulder_windows(1)).values[:batch]
        runs = []
        for _ in range(_RUNS):
            began = time.perf_counter()
            for _ in range(_CALLS // batch):
                models.model.run(x)
            runs.append((time.perf_counter() - began) / (_CALLS // batch) * 1e6)
        times[batch] = statistics.median(runs)
    return Cost(times, Resources().memory()[1])


def _pair(what: str, fp32: Cost, int8: Cost, batch: int) -> Figure:
    one, other = fp32.microseconds[batch], int8.microseconds[batch]
    return Figure(f"{what}, float32 and int8", f"{one:.0f} and {other:.0f} us, ratio {other / one:.2f}")


def _accuracy(folder: Path, person: int) -> Figure:
    result = _learn(folder, SHOULDER, person)
    int8 = result.int8
    assert int8 is not None
    windows = shoulder_windows(_STRANGER)
    found = []
    for form in (False, True):
        models = Own(folder / "own", bundle(SHOULDER)).models(ProgramOptions(), form)
        assert models is not None
        labels = models.model.run(windows.values)["scores"].argmax(axis=1)
        found.append(float((labels == windows.labels).mean()))
    return Figure(
        f"person {person}: accuracy in float32 and int8 on {int8.windows} held-out windows; on the stranger",
        f"{int8.fp32:.3f} and {int8.int8:.3f}, {int8.agreement:.1%} alike; {found[0]:.3f} and {found[1]:.3f}",
    )

"""How much of a LiteRT form is int8: time, size and difference of each kind, of the demo's model and some."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from marram.programs.program import load
from marram_cloud.compression.cost import measure_cost
from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.quantise import quantise as onnx_int8
from marram_cloud.compression.ranges import calibrate
from marram_cloud.litert.choosing import BOUND, best
from marram_cloud.litert.quantise import METHODS, quantise
from marram_cloud.litert.template import filled
from marram_cloud.litert.tensors import measured, renamed
from marram_cloud.workshop.build import predict_program
from marram_cloud.workshop.litert import LITERT_TORCH, template
from marram_cloud.workshop.project import Project
from marram_cloud.workshop.tuning import Lessons, tune

from benchmarks.report import Figure, Result, at_most
from examples.shoulder import people
from tests.zoo.projects import ZOO

_TAKEN = ("keyword-spotting", "image-classification", "visual-wake-words", "temporal", "anomaly-detection")
_RUNS = 300


def measure() -> Result:
    torch.set_num_threads(1)
    figures: list[Figure] = []
    if LITERT_TORCH.python is None:
        figures.append(Figure("nothing: no litert-torch is installed", "make .venv-litert"))
    else:
        figures += _of(Project(people.FOLDER))
        with tempfile.TemporaryDirectory() as name:
            for entry in ZOO:
                if entry.name in _TAKEN:
                    windows, labels = entry.windows(256, seed=3)
                    y = torch.from_numpy(labels) if entry.classes else None
                    project = Project(entry.write(Path(name) / entry.name))
                    lessons = Lessons(torch.from_numpy(windows), y, project.functions, epochs=1)
                    tune(project.functions.module, lessons)
                    figures += _of(project.with_module(project.functions.module))
    return Result(
        "int8 in LiteRT",
        "python -m benchmarks litert",
        "infer.tflite with the heavy operators in int8 (dynamic: ranges at run time; static), with all "
        "between them (integer), and with everything (full-integer): parts of float's time and bytes in "
        "LiteRT. One window on one thread, medians of 300, each in a process of its own. Zoo models after "
        "one epoch. The difference is that of what is taken by itself, in standard deviations of the "
        "outputs, on windows that it was not made with.",
        figures,
    )


def _of(project: Project) -> list[Figure]:
    name, windows, functions = project.about.name, project.calibration, project.functions
    shape, flat = (windows.shape[1], windows.shape[2]), functions.flat()
    predict = predict_program(functions, shape)
    outputs = [one.name for one in load(predict, "onnx").outputs]
    made = template(functions.predict, predict, flat, shape, outputs, "auto")
    parameters = flat.numpy()
    exact = filled(made, predict, parameters)
    ranges = calibrate(predict, parameters, windows)
    given = renamed(exact, predict, parameters, ranges, shape)
    known = {**measured(exact, windows), **given}
    one = np.ascontiguousarray(windows[:1])
    base = _time(exact, one, "tflite")
    kinds = [f"{kind} {_part(exact, kind, known, one, base)}" for kind in METHODS]
    taken, _ = best(exact, shape, windows, given=given)
    ratio = _time(taken.content, one, "tflite") / _time(onnx_int8(predict, parameters, ranges), one, "onnx")
    return [
        Figure(f"{name}: time; bytes", ", ".join(kinds)),
        Figure(f"{name}: taken", f"{taken.method}: {ratio:.2f} of the time of onnxruntime's int8"),
        at_most(f"{name}: difference", taken.far, BOUND),
    ]


def _part(
    exact: bytes, kind: str, known: dict[str, tuple[float, float]], one: np.ndarray, base: float
) -> str:
    """Parts of float's time and bytes."""
    try:
        content = quantise(exact, kind, known)
        return f"{_time(content, one, 'tflite') / base:.2f}; {len(content) / len(exact):.2f}"
    except CompressionError:
        return "does not run"


def _time(program: bytes, one: np.ndarray, runtime: str) -> float:
    return measure_cost(program, {"x": one}, _RUNS, runtime).p50

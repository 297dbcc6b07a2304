"""int8 and pruning: size, multiplications, time and difference, of the demo's model and some of tests/zoo."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from marram.programs.program import load
from marram_cloud.compression.cost import measure_cost, work
from marram_cloud.compression.folding import fold
from marram_cloud.compression.quantise import quantise
from marram_cloud.compression.ranges import calibrate, difference
from marram_cloud.workshop.budget import Budget
from marram_cloud.workshop.build import predict_program
from marram_cloud.workshop.compress import compress
from marram_cloud.workshop.project import Project
from marram_cloud.workshop.pruning import prune
from marram_cloud.workshop.tuning import Lessons
from torch import nn

from benchmarks.report import Figure, Result
from examples.shoulder import people
from tests.support import unequal
from tests.zoo.projects import ZOO

_TAKEN = ("keyword-spotting", "image-classification", "temporal", "transformer", "anomaly-detection")
_HALF = 0.5
_UNEQUAL = Budget(bytes=35_000, loss=0.01)
_WIDTH = 32


def measure() -> Result:
    torch.set_num_threads(1)
    figures = _of(Project(people.FOLDER))
    with tempfile.TemporaryDirectory() as name:
        for entry in ZOO:
            if entry.name in _TAKEN:
                figures += _of(Project(entry.write(Path(name) / entry.name)))
        figures += _trained_for_int8(unequal.write(Path(name) / "unequal", _WIDTH))
    return Result(
        "Compression",
        "python -m benchmarks compression",
        "infer.onnx in float and in int8, whole and with half of its channels gone; untrained, as neither "
        "size nor time depends on values. One window on one thread, medians of 1,000 in a process of its "
        "own. The difference is the outputs' from the same model in float, relative, on the calibration "
        "windows. Unequal channels: a depthwise network on scikit-learn's digits (tests/support/unequal.py), "
        "whose BatchNorm factors begin spread over a range of 300, undone in the weights after them; trained "
        f"and searched, without pruning, with {_UNEQUAL}. Accuracy on 797 digits, with its 95 % interval.",
        figures,
    )


def _of(project: Project) -> list[Figure]:
    module = project.functions.module
    lessons = Lessons(torch.from_numpy(project.calibration[:32]), None, project.functions, epochs=0)
    pruned = prune(module, _HALF, lessons, module)
    whole = _sizes(project, module)
    rows = [Figure(f"{project.about.name}: float; int8", whole)]
    if pruned is not None:
        rows.append(Figure(f"{project.about.name}, half pruned: float; int8", _sizes(project, pruned)))
    return rows


def _trained_for_int8(folder: Path) -> list[Figure]:
    """What the search finds where int8 loses much and layers in float cost too many bytes."""
    compress(folder, None, _UNEQUAL, folder, ratios=())
    found = json.loads((folder / "report.json").read_text())
    chosen = found["chosen"]

    def said(one: dict[str, Any]) -> tuple[str, str]:
        quality, layers = one["quality"], len(one["kept_float"])
        what = f"mixed, {layers} of its layers in float" if layers else one["precision"]
        taken = ": taken" if one == chosen else ""
        return f"unequal channels, {what}{taken}", (
            f"{quality['accuracy']:.3f} ({quality['low']:.3f} to {quality['high']:.3f}), "
            f"{one['bytes'] / 1000:.1f} kB, {one['cost']['p50']:.0f} us"
        )

    return [Figure(*said(one)) for one in found["candidates"]]


def _sizes(project: Project, module: nn.Module) -> str:
    functions = project.with_module(module).functions
    windows, flat = project.calibration, functions.flat().numpy()
    predict = predict_program(functions, windows.shape[1:])
    exact = fold(predict, flat).SerializeToString()
    int8 = quantise(predict, flat, calibrate(predict, flat, windows))
    one = {"x": np.ascontiguousarray(windows[:1])}
    before, after = measure_cost(exact, one), measure_cost(int8, one)
    apart = difference(load(exact, "onnx")(x=windows), load(int8, "onnx")(x=windows))
    return (
        f"{len(exact) / 1000:.1f} kB, {before.p50:.0f} us; {len(int8) / 1000:.1f} kB, {after.p50:.0f} us; "
        f"{work(predict, flat).macs / 1e6:.3g} M MACs, differs by {apart:.2%}"
    )

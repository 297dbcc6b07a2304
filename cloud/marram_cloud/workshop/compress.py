"""``marram-cloud workshop build`` with a budget or a report: search, choose, build and report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from marram.bundle.file import read
from numpy.typing import NDArray
from torch import nn

from marram_cloud.releases.calibration import Calibration
from marram_cloud.workshop import report_page
from marram_cloud.workshop.budget import Budget, BudgetError
from marram_cloud.workshop.build import Report, build, predict_program
from marram_cloud.workshop.project import Project
from marram_cloud.workshop.report import findings, write_json
from marram_cloud.workshop.search import RATIOS, Data, search
from marram_cloud.workshop.tuning import Lessons

EPOCHS = 20


def compress(
    folder: Path,
    output: Path | None,
    budget: Budget,
    report: Path | None = None,
    epochs: int = EPOCHS,
    ratios: Sequence[float] = RATIOS,
) -> Report:
    """Build what keeps the budget. report: the folder for ``report.html`` and ``report.json``.

    With a budget and ``training.npz`` the module is trained, pruned and trained again; without a budget it
    stays as it is, in int8 as ``build`` makes it. Raises BudgetError when nothing keeps the budget, and what
    ``build`` raises.
    """
    torch.set_num_threads(1)
    project = Project(folder)
    data = _data(project, budget, epochs)
    trials = search(
        project.functions.module, data, lambda module: _predict(project, module), budget, tuple(ratios)
    )
    candidates = [one.measured for one in trials]
    if budget:
        chosen = budget.choose([one for one in candidates if one.precision != "fp32"])
        trial = trials[candidates.index(chosen)]
    else:
        coarse = [one for one in trials if one.measured.precision in ("int8", "mixed")]
        trial = next((one for one in coarse if not one.loses), trials[0])
    kept = trial.keep_float if budget else None
    built = build(folder, output, project.with_module(trial.module), kept)
    if report is not None:
        judged_on = next(file for file in ("evaluation.npz", "calibration.npz") if (folder / file).exists())
        found = findings(read(built.path), trials, trial, budget, project.calibration, judged_on)
        report.mkdir(parents=True, exist_ok=True)
        write_json(found, report / "report.json")
        report_page.write(found, report / "report.html")
    return built


def _data(project: Project, budget: Budget, epochs: int) -> Data:
    about = project.about
    judged, training = project.windows("evaluation.npz"), None
    if budget:
        training = project.windows("training.npz")
    if budget.loss is not None and judged is None:
        raise BudgetError(
            f"{project.folder / 'evaluation.npz'}: is not there; --max-accuracy-loss needs it: windows (n, "
            "channels, length) that the model was not trained on, and for a classify model their labels (n,)"
        )
    lessons = None
    if training is not None:
        y = None if training.labels is None else torch.from_numpy(training.labels)
        lessons = Lessons(torch.from_numpy(training.windows), y, project.functions, epochs, seed=about.seed)
    classes = len(about.labels) if about.task == "classify" else 0
    return Data(project.calibration, judged or Calibration(project.calibration), lessons, classes)


def _predict(project: Project, module: nn.Module) -> tuple[bytes, NDArray[np.float32]]:
    functions = project.with_module(module).functions
    return predict_program(functions, project.calibration.shape[1:]), functions.flat().numpy()

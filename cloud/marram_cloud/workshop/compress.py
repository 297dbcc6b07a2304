"""``marram-cloud workshop build`` with a budget or a report: search, choose, build and report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from marram.bundle.file import Bundle, read
from marram.storage import replace_file
from numpy.typing import NDArray
from torch import nn

from marram_cloud.litert.quantise import Wanted
from marram_cloud.releases.calibration import Calibration
from marram_cloud.workshop import report_page
from marram_cloud.workshop.budget import Budget, BudgetError
from marram_cloud.workshop.build import Report, build, predict_program
from marram_cloud.workshop.litert import LITERT_TORCH
from marram_cloud.workshop.project import Project
from marram_cloud.workshop.report import findings, write_json
from marram_cloud.workshop.search import RATIOS, Data, Subject, Trial, measured, search
from marram_cloud.workshop.tuning import Lessons

EPOCHS = 20


def compress(
    folder: Path,
    output: Path | None,
    budget: Budget,
    report: Path | None = None,
    epochs: int = EPOCHS,
    ratios: Sequence[float] = RATIOS,
    tflite: bool | Wanted = False,
) -> Report:
    """Build what keeps the budget. report: the folder for ``report.html`` and ``report.json``. tflite: as for
    ``build``; the form for LiteRT has to keep the budget, too.

    With a budget and ``training.npz`` the module is trained, pruned and trained again; without a budget it
    stays as it is, in int8 as ``build`` makes it. Raises BudgetError when nothing keeps the budget, and what
    ``build`` raises.
    """
    torch.set_num_threads(1)
    if epochs < 1:
        raise BudgetError(f"--epochs {epochs}: expected at least 1")
    if tflite:
        LITERT_TORCH.needed()
    project = Project(folder)
    target = project.about.bundle(folder, output)
    if report is not None and report.exists() and not report.is_dir():
        raise BudgetError(f"{report}: is no folder: name one for report.html and report.json")
    data = _data(project, budget, epochs)
    trials = search(
        project.functions.module, data, lambda module: _predict(project, module), budget, tuple(ratios)
    )
    candidates = [one.measured for one in trials]
    if budget:
        fitting = budget.fitting([one for one in candidates if one.precision != "fp32"])
    else:
        coarse = [one for one in trials if one.measured.precision in ("int8", "mixed")]
        fitting = [next((one for one in coarse if not one.loses), trials[0]).measured]
    forms: list[Trial] = []
    with tempfile.TemporaryDirectory() as scratch:
        for chosen in fitting:
            trial = trials[candidates.index(chosen)]
            built = build(
                folder,
                Path(scratch) / "made.marram",
                project.with_module(trial.module),
                trial.keep_float if budget else None,
                tflite,
            )
            if tflite:
                forms.append(_in_litert(project, trial, read(built.path), data, trials[0]))
            if not tflite or budget.excess(forms[-1].measured) == 0:
                break
        else:
            budget.fitting([one.measured for one in forms])
        if report is not None:
            judged_on = next(
                file for file in ("evaluation.npz", "calibration.npz") if (folder / file).exists()
            )
            found = findings(
                read(built.path),
                [*trials, *forms],
                trial,
                budget,
                project.calibration,
                judged_on,
                built.tflite,
            )
            write_json(found, report / "report.json")
            report_page.write(found, report / "report.html")
        replace_file(target, built.path.read_bytes())
    return replace(built, path=target)


def _in_litert(project: Project, trial: Trial, bundle: Bundle, data: Data, first: Trial) -> Trial:
    """The bundle's form for LiteRT, measured like the others. trial: of its form for onnxruntime."""
    predict, flat = _predict(project, trial.module)
    subject = Subject(trial.module, trial.measured.pruned, predict, flat, {})
    program = bundle.members[bundle.manifest.programs["infer_tflite"].file]
    best = first.measured.quality
    found, loses = measured(subject, data, best, program, "LiteRT int8", runtime="tflite")
    return Trial(found, trial.module, (), (), loses)


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

"""The search for a model that keeps a budget: unpruned and pruned, in int8 and in mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import numpy as np
from marram.programs.program import load
from numpy.typing import NDArray
from torch import nn

from marram_cloud.compression.bound import MOST_FLOAT, compare
from marram_cloud.compression.cost import measure_cost, work
from marram_cloud.compression.folding import fold
from marram_cloud.compression.quality import Quality, judge
from marram_cloud.compression.quantise import Ranges, quantise
from marram_cloud.compression.ranges import calibrate, difference
from marram_cloud.compression.sensitivity import Sensitivity, sensitivities
from marram_cloud.releases.calibration import Calibration
from marram_cloud.workshop.budget import Budget, Candidate
from marram_cloud.workshop.fake_int8 import tune_for_int8
from marram_cloud.workshop.pruning import prune
from marram_cloud.workshop.tuning import Lessons, tune

RATIOS = (0.25, 0.5, 0.75)

Export = Callable[[nn.Module], tuple[bytes, NDArray[np.float32]]]
"""A module's predict.onnx and its parameters, (P,)."""


@dataclass(frozen=True)
class Trial:
    """A candidate with what it is made of. loses: more than is allowed where no budget says how much."""

    measured: Candidate
    module: nn.Module
    keep_float: tuple[str, ...]
    layers: tuple[Sensitivity, ...]
    loses: bool = False


@dataclass(frozen=True)
class Data:
    """calibration: windows for ranges. judged: windows nobody trained on, or the calibration's where there
    are no other. lessons: None without training windows. classes: 0 for models without labels."""

    calibration: NDArray[np.float32]
    judged: Calibration
    lessons: Lessons | None
    classes: int

    @property
    def sample(self) -> NDArray[np.float32]:
        """One window to be timed with."""
        return self.judged.windows[:1]


def search(
    module: nn.Module, data: Data, export: Export, budget: Budget, ratios: tuple[float, ...]
) -> list[Trial]:
    """All trials; the first is the unpruned fp32 model, against which the others are judged.

    With lessons the module is trained first, in place.
    """
    if data.lessons is not None:
        tune(module, data.lessons)
    bench = Bench(data, export, budget)
    trials = bench.trials(module, 0.0)
    if data.lessons is None:
        return trials
    for ratio in ratios:
        pruned = prune(module, ratio, data.lessons, module)
        if pruned is not None:
            trials += bench.trials(pruned, ratio)
    return trials


class Bench:
    """Makes the candidates of one module and measures each."""

    def __init__(self, data: Data, export: Export, budget: Budget) -> None:
        self._data, self._export = data, export
        self._bound = budget.loss
        self._best: Quality | None = None

    def trials(self, module: nn.Module, ratio: float) -> list[Trial]:
        """fp32 (for comparison), int8, and what helps where int8 loses more than is allowed."""
        data = self._data
        subject = self._subject(module, ratio)
        layers = tuple(sensitivities(subject.predict, subject.flat, subject.ranges, data.judged.windows))
        exact = self._trial(subject, "fp32", ())
        if self._best is None:
            self._best = exact.measured.quality
            loss = None if self._best is None else 0.0
            exact = replace(exact, measured=msgspec.structs.replace(exact.measured, loss=loss))
        found = [replace(exact, layers=layers), replace(self._trial(subject, "int8", ()), layers=layers)]
        if self._loses(found[-1], found[0]):
            found += self._mixed(subject, layers, found[0])
            if data.lessons is not None:
                learnt = tune_for_int8(module, data.lessons, module)
                found.append(self._trial(self._subject(learnt, ratio), "int8 tuned", ()))
        return found

    def _subject(self, module: nn.Module, ratio: float) -> Subject:
        predict, flat = self._export(module)
        return Subject(module, ratio, predict, flat, calibrate(predict, flat, self._data.calibration))

    def _mixed(self, subject: Subject, layers: tuple[Sensitivity, ...], exact: Trial) -> list[Trial]:
        """The worst layers in float, one more each time, until the loss is allowed."""
        worst = sorted(layers, key=lambda one: -one.error)
        found: list[Trial] = []
        for count in range(1, 1 + int(len(worst) * MOST_FLOAT)):
            kept = tuple(one.layer.name for one in worst[:count])
            found.append(replace(self._trial(subject, "mixed", kept), layers=layers))
            if not self._loses(found[-1], exact):
                break
        return found

    def _loses(self, one: Trial, exact: Trial) -> bool:
        """More than allowed, of what the same module has in fp32."""
        if self._bound is None:
            return one.loses
        before, after = exact.measured, one.measured
        if before.quality is None or after.quality is None:
            return after.difference > self._bound
        return after.quality.worse_than(before.quality) > self._bound

    def _trial(self, subject: Subject, precision: str, kept: tuple[str, ...]) -> Trial:
        data = self._data
        if precision == "fp32":
            program: bytes = fold(subject.predict, subject.flat).SerializeToString()
        else:
            program = quantise(subject.predict, subject.flat, subject.ranges, kept)
        found, loses = measured(subject, data, self._best, program, precision, kept)
        return Trial(found, subject.module, kept, (), loses)


@dataclass(frozen=True)
class Subject:
    """A module, exported and calibrated. flat: its parameters, float32 (P,)."""

    module: nn.Module
    ratio: float
    predict: bytes
    flat: NDArray[np.float32]
    ranges: Ranges


def measured(
    subject: Subject,
    data: Data,
    best: Quality | None,
    program: bytes,
    precision: str,
    kept: tuple[str, ...] = (),
    runtime: Literal["onnx", "tflite"] = "onnx",
) -> tuple[Candidate, bool]:
    """What the program, made of the subject, costs and is worth, and whether it loses more than is allowed
    where no budget says how much. best: what the loss refers to."""
    windows = data.judged.windows
    said = load(program, runtime)(x=windows)
    exact = load(subject.predict, "onnx")(parameters=subject.flat, x=windows)
    quality = None
    if not data.classes or data.judged.labels is not None:
        quality = judge(said, data.judged.labels, data.classes)
    found = Candidate(
        pruned=subject.ratio,
        precision=precision,
        bytes=len(program),
        parameters=len(subject.flat),
        macs=work(subject.predict, subject.flat).macs,
        cost=measure_cost(program, {"x": data.sample}, runtime=runtime),
        quality=quality,
        difference=difference(exact, said),
        loss=quality.worse_than(best) if quality is not None and best is not None else None,
        kept_float=kept,
    )
    return found, compare(exact, said, data.judged.labels).too_much

"""``marram-cloud workshop keras``: a Keras model becomes a bundle that a device can run, in int8 for LiteRT.

A project is a folder with ``project.yaml``, as of a PyTorch module, ``model.keras`` and ``calibration.npz``.
TensorFlow converts it in an environment of its own, 1.6 GB, that ``make .venv-keras`` installs.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from marram.bundle.file import encode, parse
from marram.bundle.manifest import ProgramFile
from marram.programs.program import Program, Tensor, load
from marram.storage import replace_file

from marram_cloud.compression.quality import Quality, judge
from marram_cloud.litert.choosing import best
from marram_cloud.litert.forms import FILE
from marram_cloud.litert.quantise import Wanted
from marram_cloud.projects.about import read
from marram_cloud.projects.errors import ProjectError
from marram_cloud.releases.calibration import Calibration
from marram_cloud.workshop.converters import Converter
from marram_cloud.workshop.project import ProjectFile, Training

TENSORFLOW = Converter(
    "TensorFlow", ".venv-keras", "MARRAM_KERAS_PYTHON", Path(__file__).with_name("keras_convert.py")
)
_SHOWN = 64  # windows that say whether a classifier gives probabilities


@dataclass(frozen=True)
class KerasReport:
    """What was built. understood: what was made of the model's input and output. tflite: how it was
    quantised."""

    path: Path
    size: int
    understood: str
    tflite: str
    figures: dict[str, float]

    def __str__(self) -> str:
        rows = [
            f"{self.path}: {self.size} bytes",
            f"  model.keras    {self.understood}",
            f"  {FILE}   {self.tflite}",
        ]
        rows += [f"  {name:14} {value:.4g}" for name, value in self.figures.items()]
        return "\n".join(rows)


def build_keras(folder: Path, output: Path | None = None, int8: Wanted | None = None) -> KerasReport:
    """Build the project in ``folder``; by default into ``folder/<name>.marram``. int8: in place of
    project.yaml's ``tflite``.

    The bundle can be run and released, not trained. Raises ProjectError, CalibrationError or
    CompressionError; no file is written then.
    """
    about = _about(folder)
    target = about.bundle(folder, output)
    windows = about.windows(folder / "calibration.npz", about.task).windows
    exact, understood = _converted(folder, about, windows)
    taken, told = best(exact, about.window, windows, int8 or about.tflite)
    content = taken.content
    figures = _figures(folder, about, load(exact, "tflite"), load(content, "tflite"))
    card = {"infer_bytes": float(len(content)), **figures}
    manifest = msgspec.structs.replace(
        about.manifest(about.task, {"infer": _program_file(content)}, (), card),
        threshold=_threshold(about, load(content, "tflite"), windows),
    )
    made = encode(manifest, {FILE: content})
    parse(made)
    replace_file(target, made)
    return KerasReport(target, len(made), understood, told, figures)


def _about(folder: Path) -> ProjectFile:
    file = folder / "project.yaml"
    about = read(folder, ProjectFile)
    if about.task == "forecast":
        raise ProjectError(f"{file}: task: a Keras model may classify or reconstruct, not forecast")
    if about.loss is not None or about.backbone is not None or about.training != Training():
        raise ProjectError(
            f"{file}: a Keras model does not learn on devices: remove loss, training and backbone"
        )
    if not (folder / "model.keras").exists():
        raise ProjectError(f"{folder / 'model.keras'}: is not there: model.save('model.keras') writes it")
    return about


def _converted(folder: Path, about: ProjectFile, windows: np.ndarray) -> tuple[bytes, str]:
    """(float TFLite, what was made of its input and output)."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        shutil.copyfile(folder / "model.keras", scratch / "model.keras")
        np.save(scratch / "windows.npy", windows[:_SHOWN])
        told = {
            "task": about.task,
            "channels": len(about.channels),
            "length": about.length,
            "labels": len(about.labels),
        }
        (scratch / "about.json").write_text(json.dumps(told))
        TENSORFLOW.run(scratch)
        said = json.loads((scratch / "said.json").read_text())
        return (scratch / "float.tflite").read_bytes(), f"takes {said['takes']}, gives {said['gives']}"


def _program_file(content: bytes) -> ProgramFile:
    program = load(content, "tflite")

    def named(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(Tensor(one.name, one.dtype, ("batch", *one.shape[1:])) for one in tensors)

    return ProgramFile(FILE, "tflite", named(program.inputs), named(program.outputs))


def _figures(folder: Path, about: ProjectFile, exact: Program, coarse: Program) -> dict[str, float]:
    """For the model card, from ``evaluation.npz`` where it is there."""
    judged = about.judged(folder, about.task)
    if judged is None:
        return {}
    found: dict[str, float] = {}
    for name, program in (("fp32", exact), ("int8", coarse)):
        quality = _quality(about, program, judged)
        if quality.accuracy is not None:
            found[f"accuracy_{name}"] = quality.accuracy
        if quality.loss is not None:
            found[f"score_{name}"] = quality.loss
    return found


def _quality(about: ProjectFile, program: Program, judged: Calibration) -> Quality:
    classes = len(about.labels) if about.task == "classify" else 0
    return judge(program(x=judged.windows), judged.labels, classes)


def _threshold(about: ProjectFile, program: Program, windows: np.ndarray) -> float | None:
    """Of a reconstruct model the highest score of the calibration windows, which are normal."""
    return float(program(x=windows)["score"].max()) if about.task == "reconstruct" else None

"""``marram-cloud workshop build``: a PyTorch module becomes a bundle that a device can train and run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from marram.bundle.file import PARAMETERS, encode, encode_parameters, parse
from marram.bundle.manifest import Manifest, Role, Training
from marram.programs.program import Tensor, load
from marram.storage import replace_file

from marram_cloud.compression import bound
from marram_cloud.compression.cost import work
from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.programs import int8_programs, program_file
from marram_cloud.compression.quality import judge
from marram_cloud.compression.ranges import calibrate
from marram_cloud.litert.forms import TEMPLATE, with_form
from marram_cloud.litert.quantise import Wanted
from marram_cloud.projects.errors import ProjectError
from marram_cloud.releases.calibration import Calibration
from marram_cloud.workshop.export import export
from marram_cloud.workshop.functions import Functions
from marram_cloud.workshop.litert import LITERT_TORCH, template
from marram_cloud.workshop.optimisers import Sgd
from marram_cloud.workshop.project import Project
from marram_cloud.workshop.verify import Verifier, batches

# Traced with this batch: sizes that happen to be equal would be taken for the batch, so it is an odd one.
_EXAMPLE_BATCH = 1009
_STEPS = 5
_PREDICTIONS = {
    "classify": ["scores"],
    "reconstruct": ["score", "channel_scores"],
    "forecast": ["score", "channel_scores", "forecast"],
}


@dataclass(frozen=True)
class Report:
    """What was built. differences: from PyTorch, by program. int8: mean difference of the int8 outputs.

    unsettled: in how many cases of a program PyTorch itself is not sure of some value (see ``Verifier``).
    backbone: its file, and what is to be told of it.
    kept: what of infer.onnx is int8, and what it loses by that.
    no_calibrate: why a device runs what it learns itself in float32; "" where it has calibrate.onnx.
    """

    path: Path
    size: int
    parameters: int
    programs: dict[str, int]
    differences: dict[str, float]
    int8: float
    unsettled: dict[str, int] = field(default_factory=dict)
    kept: str = ""
    no_calibrate: str = ""
    tflite: str = ""
    backbone: tuple[str, str] | None = None

    def __str__(self) -> str:
        rows = [
            f"  {name:14} {size:8} bytes   differs from PyTorch by {self.differences[name]:.1e}"
            + (f"; {count} cases: only where PyTorch is sure" if (count := self.unsettled.get(name)) else "")
            for name, size in self.programs.items()
            if name in self.differences
        ]
        if self.backbone is not None:
            file, told = self.backbone
            rows.append(f"  {file:14} {self.programs[file]:8} bytes   {told}")
        size = self.programs["infer.onnx"]
        rows.append(
            f"  infer.onnx     {size:8} bytes   {self.kept}; differs from fp32 by {self.int8:.1e} in the mean"
        )
        if "calibrate.onnx" in self.programs:
            size = self.programs["calibrate.onnx"]
            rows.append(f"  calibrate.onnx {size:8} bytes   gives the same int8 on a device, to the bit")
        if self.no_calibrate:
            rows.append(f"  devices run what they learn themselves in float32: {self.no_calibrate}")
        if self.tflite:
            rows.append(f"  infer.tflite   {self.tflite}")
        return "\n".join([f"{self.path}: {self.size} bytes, {self.parameters} parameters", *rows])


def build(
    folder: Path,
    output: Path | None = None,
    project: Project | None = None,
    keep_float: Sequence[str] | None = None,
    tflite: bool | Wanted = False,
) -> Report:
    """Build the project in ``folder``; by default into ``folder/<name>.marram``.

    project: with another module than that in the folder, a pruned one. keep_float: layers without int8; by
    default those that lose too much (``compression.bound``).
    tflite: with a form for LiteRT, quantised so or else as project.yaml says, and the template that releases
    make theirs from. Raises CompressionError
    where that cannot be made, and ProjectError, UnsupportedError or DisagreementError; no file is written
    then.
    """
    torch.set_num_threads(1)
    project = project or Project(folder)
    about, backbone = project.about, project.backbone
    target = about.bundle(folder, output)
    if tflite and backbone is not None:
        raise CompressionError(
            "a bundle with a backbone has no infer.tflite: the backbone itself may be TFLite"
        )
    if tflite:
        LITERT_TORCH.needed()
    judged = project.windows("evaluation.npz")
    functions = project.functions
    verifier = Verifier({})
    windows = torch.from_numpy(project.calibration)
    classes = len(about.labels) if about.task == "classify" else 0
    cases = batches(windows, classes, about.seed, 7 if functions.statistics else 1)
    files = _programs(functions, cases, verifier, about.training.learning_rate)
    if not _learns(functions, cases):
        raise ProjectError(
            f"{folder / 'model.py'}: a training step changes nothing: let gradients through forward, without "
            "no_grad, detach, argmax or rounding on the way from the parameters"
        )
    flat = functions.flat().numpy()
    ranges = calibrate(files["predict.onnx"], flat, project.calibration)
    seen, kept = judged or Calibration(project.calibration), None
    if keep_float is None:
        kept = bound.keep_float(files["predict.onnx"], flat, ranges, seen.windows, seen.labels)
        keep_float = kept.layers
    int8 = int8_programs(files["predict.onnx"], flat, ranges, keep_float)
    files["infer.onnx"] = int8.infer
    figures = {"infer_bytes": float(len(int8.infer))}
    if backbone is None or backbone.macs is not None:
        macs = work(files["predict.onnx"], flat).macs + (backbone.macs or 0 if backbone else 0)
        figures["macs"] = float(macs)
    if backbone is not None:
        files[backbone.file] = backbone.content
        figures["backbone_bytes"] = float(len(backbone.content))
    if judged is not None:
        figures |= _qualities(judged, len(about.labels), files, flat)
    manifest, files = int8.put_into(_manifest(project, functions, files, figures), files)
    members = {**files, PARAMETERS: encode_parameters(manifest, flat)}
    lite = ""
    if tflite:
        wanted = about.tflite if tflite is True else tflite
        members[TEMPLATE] = _template(functions, project, files, wanted)
        manifest, members, lite = with_form(manifest, members, flat, ranges, project.calibration)
        if "infer_tflite" not in manifest.programs:
            raise CompressionError(lite)
    content = encode(manifest, members)
    parse(content)
    replace_file(target, content)
    return Report(
        path=target,
        size=len(content),
        parameters=flat.shape[0],
        programs={name: len(data) for name, data in files.items()},
        differences=verifier.differences,
        unsettled=verifier.unsettled,
        int8=_int8_difference(files, flat, project.calibration),
        kept=str(kept or bound.Kept(tuple(keep_float), _lost(files, flat, seen))),
        no_calibrate=int8.why,
        tflite=lite,
        backbone=None if backbone is None else (backbone.file, backbone.told),
    )


def _template(functions: Functions, project: Project, files: dict[str, bytes], wanted: Wanted) -> bytes:
    outputs = [one.name for one in load(files["predict.onnx"], "onnx").outputs]
    window = (len(project.about.channels), project.about.length)
    predict = files["predict.onnx"]
    return template(functions.predict, predict, functions.flat(), window, outputs, wanted)


def _learns(functions: Functions, cases: list[dict[str, torch.Tensor]]) -> bool:
    """Whether there is a gradient."""
    plain = replace(functions, optimiser=Sgd(momentum=0.0))
    flat, count = functions.flat(), functions.trained
    fixed = {
        "parameters": flat, "state": torch.zeros(count), "learning_rate": torch.tensor(1.0), "anchor": flat,
        "mu": torch.tensor(0.0), "seed": torch.tensor(0) if functions.chance else None,
    }  # fmt: skip
    return any(
        not torch.equal(plain.train(**{"y": None, **fixed, **case})[0][:count], flat[:count])
        for case in cases
    )


def _programs(
    functions: Functions, cases: list[dict[str, torch.Tensor]], verifier: Verifier, rate: float
) -> dict[str, bytes]:
    flat = functions.flat()
    size = functions.optimiser.state(functions.trained)
    labelled = "y" in cases[0]
    example = {
        name: torch.zeros(_EXAMPLE_BATCH, *value.shape[1:], dtype=value.dtype)
        for name, value in cases[0].items()
    }
    data = ["x", "y", "weight"] if labelled else ["x", "weight"]
    sums = ["loss", "count", "correct"] if labelled else ["loss", "count"]
    unlabelled = Unlabelled(functions)
    train = functions.train if labelled else unlabelled.train
    evaluate = functions.evaluate if labelled else unlabelled.evaluate
    step = {
        "parameters": flat, "state": torch.zeros(size), **{name: example[name] for name in data},
        "learning_rate": torch.tensor(rate), "anchor": flat.clone(), "mu": torch.tensor(0.0),
        **({"seed": torch.tensor(0)} if functions.chance else {}),
    }  # fmt: skip
    files = {
        "train.onnx": export(train, step, ["new_parameters", "new_state", "loss"], data, training=True),
        "evaluate.onnx": export(
            evaluate, {"parameters": flat, **{name: example[name] for name in data}}, sums, data
        ),
        "predict.onnx": predict_program(functions, example["x"].shape[1:]),
    }
    measured = [{"parameters": flat, **{name: case[name] for name in data}} for case in cases]
    verifier.program("evaluate.onnx", files["evaluate.onnx"], evaluate, measured)
    asked = [{"parameters": flat, "x": case["x"]} for case in cases]
    verifier.program("predict.onnx", files["predict.onnx"], functions.predict, asked)
    # Several steps in a row, each from where PyTorch came to, with and without the proximal term.
    steps = []
    parameters, state = flat, torch.zeros(size)
    for number, case in enumerate(cases * _STEPS):
        one = {
            **step, "parameters": parameters, "state": state, **{name: case[name] for name in data},
            "mu": torch.tensor(0.1 * (number % 2)),
            **({"seed": torch.tensor(number)} if functions.chance else {}),
        }  # fmt: skip
        steps.append(one)
        parameters, state = (value.detach() for value in train(**one)[:2])
    verifier.program("train.onnx", files["train.onnx"], train, steps)
    return files


def predict_program(functions: Functions, window: Sequence[int]) -> bytes:
    """``predict.onnx``. window: (channels, length). Raises UnsupportedError."""
    example = {"parameters": functions.flat(), "x": torch.zeros(_EXAMPLE_BATCH, *window)}
    return export(functions.predict, example, _PREDICTIONS[functions.task], ["x"])


@dataclass(frozen=True)
class Unlabelled:
    """The same functions without ``y``: such a model's target is its own input."""

    functions: Functions

    def train(
        self, parameters: torch.Tensor, state: torch.Tensor, x: torch.Tensor, weight: torch.Tensor,
        learning_rate: torch.Tensor, anchor: torch.Tensor, mu: torch.Tensor, seed: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        return self.functions.train(parameters, state, x, None, weight, learning_rate, anchor, mu, seed)

    def evaluate(
        self, parameters: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        return self.functions.evaluate(parameters, x, None, weight)


def _manifest(
    project: Project, functions: Functions, files: dict[str, bytes], figures: dict[str, float]
) -> Manifest:
    about = project.about
    shapes = functions.shapes
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    backbone = project.backbone
    roles: dict[str, Role] = {
        "train.onnx": "train", "evaluate.onnx": "evaluate", "predict.onnx": "predict", "infer.onnx": "infer",
    }  # fmt: skip
    programs = {role: program_file(file, files[file]) for file, role in roles.items()}
    if backbone is not None:
        programs["backbone"] = program_file(backbone.file, backbone.content, backbone.runtime)
    parameters = tuple(Tensor(name, "float32", shape) for name, shape in shapes.items())
    return msgspec.structs.replace(
        about.manifest(about.task, programs, parameters, {"parameters": float(size), **figures}),
        horizon=about.horizon,
        backbone=None if backbone is None else backbone.layout,
        training=Training(
            optimiser=str(about.training.optimiser),
            learning_rate=about.training.learning_rate,
            batch=about.training.batch,
            epochs=about.training.epochs,
            state=about.training.optimiser.state(functions.trained),
        ),
    )


def _qualities(
    judged: Calibration, classes: int, files: dict[str, bytes], flat: np.ndarray
) -> dict[str, float]:
    """For the model card: only what is the same at every build, so no times."""
    exact = load(files["predict.onnx"], "onnx")(parameters=flat, x=judged.windows)
    coarse = load(files["infer.onnx"], "onnx")(x=judged.windows)
    found: dict[str, float] = {}
    for name, said in (("fp32", exact), ("int8", coarse)):
        quality = judge(said, judged.labels, classes)
        if quality.accuracy is not None:
            found[f"accuracy_{name}"] = quality.accuracy
        if quality.loss is not None:
            found[f"score_{name}"] = quality.loss
    return found


def _lost(files: dict[str, bytes], flat: np.ndarray, seen: Calibration) -> str:
    """What int8 loses, in words."""
    exact = load(files["predict.onnx"], "onnx")(parameters=flat, x=seen.windows)
    return bound.compare(exact, load(files["infer.onnx"], "onnx")(x=seen.windows), seen.labels).words


def _int8_difference(files: dict[str, bytes], flat: np.ndarray, windows: np.ndarray) -> float:
    exact = load(files["predict.onnx"], "onnx")(parameters=flat, x=windows)
    coarse = load(files["infer.onnx"], "onnx")(x=windows)
    return max(
        float(np.abs(exact[name].astype(np.float64) - coarse[name].astype(np.float64)).mean())
        for name in exact
    )

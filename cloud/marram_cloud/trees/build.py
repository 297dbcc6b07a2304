"""``marram-cloud workshop trees``: a fitted forest, or room for one, becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from marram.bundle.file import PARAMETERS, encode, encode_parameters, parse
from marram.bundle.forest import Forest, Layout
from marram.bundle.manifest import MOST_PARAMETERS, Manifest, Training
from marram.programs.program import load
from marram.storage import replace_file
from marram.wire.trees import Room, Tree
from numpy.typing import NDArray

from marram_cloud.projects.about import FILE
from marram_cloud.trees import features
from marram_cloud.trees.bundle import Programs
from marram_cloud.trees.errors import TreesError
from marram_cloud.trees.project import Project

_TOLERANCE = 1e-5
_WINDOWS = 512


@dataclass(frozen=True)
class Report:
    """What was built. differences: from the library that fitted the forest, by program; None without one.

    accuracy: on evaluation.npz, where it is there.
    """

    path: Path
    size: int
    trees: int
    room: Room
    slots: int
    features: int
    infer: int
    difference: float | None
    accuracy: float | None

    def __str__(self) -> str:
        if self.trees:
            told = f"{self.trees} trees, room for {self.slots} of {self.room.splits} splits"
        else:
            told = f"no trees yet, room for {self.slots} of {self.room.splits} splits"
        lines = [f"{self.path}: {self.size} bytes, {told}, on {self.features} features"]
        same = "" if self.difference is None else f"; differs from the library by {self.difference:.1e}"
        lines.append(f"  infer.onnx     {self.infer:8} bytes, float32{same}")
        if self.accuracy is not None:
            lines.append(f"  accuracy {self.accuracy:.3f} on evaluation.npz")
        return "\n".join(lines)


def build(folder: Path, model: Path | None = None, output: Path | None = None) -> Report:
    """Build the project in ``folder``; by default into ``folder/<name>.marram``.

    model: see ``Project``. Raises TreesError, ConfigError or CalibrationError; no file is written then.
    """
    project = Project(folder, model)
    about, source = project.about, project.source
    target = about.bundle(folder, output)
    names = features.names(about.features, [one.name for one in about.channels], about.length)
    slots, splits = project.room
    layout = Layout(slots, Room(splits, len(names), len(about.labels)))
    if layout.size > MOST_PARAMETERS:
        raise TreesError(
            f"{folder / FILE}: forest: {slots} trees of {splits} splits have {layout.size} parameters; a "
            f"device takes at most {MOST_PARAMETERS}"
        )
    if source is not None and source.features != len(names):
        raise TreesError(
            f"{folder / FILE}: the model was fitted on {source.features} features; a window has "
            f"{len(names)}: "
            f"{', '.join(names[:40])}{' ...' if len(names) > 40 else ''}"
        )
    forest = Forest(source.trees, np.ones(len(source.trees))) if source else untaught(layout.room)
    vector = layout.pack(forest)
    programs = Programs.of(
        features.program(about.features, len(about.channels), about.length), layout, vector
    )
    windows = _windows(project, forest)
    difference = _difference(programs.files, vector, windows, source.probabilities if source else None)
    accuracy = _accuracy(project, programs.files["infer.onnx"])
    manifest = _manifest(project, layout, programs, accuracy)
    content = encode(manifest, {**programs.files, PARAMETERS: encode_parameters(manifest, vector)})
    parse(content)
    replace_file(target, content)
    return Report(
        path=target,
        size=len(content),
        trees=len(source.trees) if source else 0,
        room=layout.room,
        slots=slots,
        features=len(names),
        infer=len(programs.files["infer.onnx"]),
        difference=difference,
        accuracy=accuracy,
    )


def untaught(room: Room) -> Forest:
    """The forest of who has learnt nothing: to one tree without a split every label is as likely."""
    nothing = np.zeros(0, np.int64)
    leaves = np.full((1, room.classes), 1 / room.classes, np.float32)
    return Forest((Tree(nothing, nothing.astype(np.float32), nothing.reshape(0, 2), leaves),), np.ones(1))


def _manifest(project: Project, layout: Layout, programs: Programs, accuracy: float | None) -> Manifest:
    about = project.about
    figures = {"parameters": float(layout.size), "infer_bytes": float(len(programs.files["infer.onnx"]))}
    if accuracy is not None:
        figures["accuracy_fp32"] = accuracy
    return msgspec.structs.replace(
        about.manifest("classify", programs.entries(), layout.tensors(), figures),
        training=Training(optimiser="trees by histograms"),
    )


def _windows(project: Project, forest: Forest) -> NDArray[np.float32]:
    """To compare programs on: those that the project brings, and others at and about the thresholds."""
    about, random = project.about, np.random.default_rng(0)
    shape = (_WINDOWS, len(about.channels), about.length)
    thresholds = np.concatenate([tree.threshold for tree in forest.trees])
    if not len(thresholds):
        thresholds = np.zeros(1, np.float32)
    if about.features == "values":
        made = _at_thresholds(forest, np.prod(shape[1:], dtype=int), random).reshape(shape)
    else:
        spread = max(float(np.abs(thresholds).max()), 1e-3)
        made = random.normal(scale=spread, size=shape).astype(np.float32)
    return made if project.evaluation is None else np.concatenate([made, project.evaluation.windows])


def _at_thresholds(forest: Forest, count: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Rows float32 (n, count): each value a threshold of its feature, or the number next to one."""
    rows = random.normal(size=(_WINDOWS, count)).astype(np.float32)
    largest = np.finfo(np.float32).max
    feature = np.concatenate([tree.feature for tree in forest.trees])
    threshold = np.concatenate([tree.threshold for tree in forest.trees])
    for one in np.unique(feature):
        drawn = random.choice(threshold[feature == one], _WINDOWS)
        towards = random.choice(np.array([-np.inf, 0, np.inf], np.float32), _WINDOWS)
        with np.errstate(over="ignore"):
            near = np.where(towards == 0, drawn, np.nextafter(drawn, towards))
        # A tree that knows missing values splits at infinity, to tell them from all others.
        rows[:, one] = np.clip(near, -largest, largest)
    return rows


def _difference(
    files: dict[str, bytes],
    vector: NDArray[np.float32],
    windows: NDArray[np.float32],
    library: Callable[[NDArray[np.float32]], NDArray[np.float64]] | None,
) -> float | None:
    """The largest between programs and library. Raises TreesError beyond ``_TOLERANCE``."""
    exact = load(files["predict.onnx"], "onnx")(parameters=vector, x=windows)["scores"].astype(np.float64)
    fast = load(files["infer.onnx"], "onnx")(x=windows)["scores"].astype(np.float64)
    apart = float(np.abs(exact - fast).max())
    if library is not None:
        said = library(features.of_windows(files["features.onnx"], windows))
        apart = max(apart, float(np.abs(said - fast).max()))
    if not apart <= _TOLERANCE:
        raise TreesError(
            f"the programs differ by {apart:.2e} from what the forest says; no bundle is written"
        )
    return apart if library is not None else None


def _accuracy(project: Project, infer: bytes) -> float | None:
    judged = project.evaluation
    if judged is None:
        return None
    labels = load(infer, "onnx")(x=judged.windows)["scores"].argmax(axis=1)
    return float((labels == judged.labels).mean())

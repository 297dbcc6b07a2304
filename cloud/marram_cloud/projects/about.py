"""What every ``project.yaml`` says, wherever its model comes from, and what a manifest takes from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from marram.bundle.manifest import Channel, Manifest, ModelCard, Name, ProgramFile, Role, Task
from marram.config.load import load
from marram.programs.program import Tensor

from marram_cloud.projects.errors import ProjectError
from marram_cloud.releases.calibration import Calibration, read_calibration

FILE = "project.yaml"
_Samples = Annotated[int, msgspec.Meta(gt=0, le=1_000_000)]


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """rate: samples a second. length, stride: of windows, in samples."""

    name: Name
    version: str = "0"
    channels: Annotated[tuple[Channel, ...], msgspec.Meta(min_length=1)]
    rate: Annotated[float, msgspec.Meta(gt=0)]
    length: _Samples
    stride: _Samples
    labels: tuple[str, ...] = ()
    card: ModelCard = ModelCard()

    def problems(self) -> Iterable[tuple[tuple[str, ...], str]]:
        """Cross-field mistakes."""
        if len(set(self.labels)) < len(self.labels):
            yield ("labels",), "expected each label once"
        if len({one.name for one in self.channels}) < len(self.channels):
            yield ("channels",), "expected each name once"

    @property
    def window(self) -> tuple[int, int]:
        """(channels, length)."""
        return len(self.channels), self.length

    def windows(self, path: Path, task: Task) -> Calibration:
        """Those of an .npz. Labels are read of a classify model alone, where they are there.

        Raises CalibrationError, or ProjectError for a label that the project does not name.
        """
        found = read_calibration(path, *self.window)
        if task != "classify":
            return Calibration(found.windows)
        if found.labels is not None:
            for label in (int(found.labels.min()), int(found.labels.max())):
                if not 0 <= label < len(self.labels):
                    raise ProjectError(
                        f"{path}: a label is {label}, but {FILE} names {len(self.labels)} labels, counted "
                        "from 0"
                    )
        return found

    def judged(self, folder: Path, task: Task, file: str = "evaluation.npz") -> Calibration | None:
        """``windows`` of the folder's file; None if it is not there. A classify model's have labels."""
        path = folder / file
        if not path.exists():
            return None
        found = self.windows(path, task)
        if task == "classify" and found.labels is None:
            raise ProjectError(f"{path}: has no array 'labels': int64 (n,), the index of each window's label")
        return found

    def manifest(
        self,
        task: Task,
        programs: Mapping[Role, ProgramFile],
        parameters: tuple[Tensor, ...],
        figures: Mapping[str, float],
    ) -> Manifest:
        """What all bundles have of it. figures: measured, for the model card."""
        metrics = {**self.card.metrics, **figures}
        return Manifest(
            name=self.name,
            version=self.version,
            task=task,
            channels=self.channels,
            rate=self.rate,
            length=self.length,
            stride=self.stride,
            labels=self.labels,
            programs=dict(programs),
            parameters=parameters,
            members={},
            card=msgspec.structs.replace(self.card, metrics=metrics),
        )

    def bundle(self, folder: Path, output: Path | None) -> Path:
        """Where the bundle goes. Raises ProjectError where that is a folder."""
        path = output or folder / f"{self.name}.marram"
        if path.is_dir():
            raise ProjectError(f"{path}: is a folder: name a file in it, such as {path / self.name}.marram")
        return path


T = TypeVar("T", bound=About)


def read(folder: Path, kind: type[T]) -> T:
    """``project.yaml`` of a project's folder. Raises ProjectError or ConfigError."""
    if not folder.is_dir():
        raise ProjectError(
            f"{folder}: {'is no folder' if folder.exists() else 'is not there'}: name the folder of a project"
        )
    if not (folder / FILE).exists():
        raise ProjectError(f"{folder / FILE}: is not there: it says what the model takes and gives")
    return load(folder / FILE, kind)

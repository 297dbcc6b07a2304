"""A workshop project: a folder with ``project.yaml`` and ``model.py``.

``model.py`` has a function ``model() -> torch.nn.Module``. Its forward takes float32
(batch, channels, length) in the channels' units, so normalisation is inside, and gives logits
(batch, classes) for ``classify``, or the pair (normalised window, its reconstruction) for ``reconstruct``.
``calibration.npz`` holds ``windows`` (n, channels, length), on which int8 ranges are measured.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, cast

import msgspec
import torch
from marram.bundle.manifest import Channel, ModelCard, Name
from marram.config.load import load
from marram.errors import MarramError

from marram_cloud.releases.calibration import Calibration, read_calibration

_TRIED = 5


class ProjectError(MarramError):
    """A project cannot be built; the message names the file and what to change."""


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Defaults that go into the manifest. momentum is in the graph and cannot be changed by a round."""

    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    batch: Annotated[int, msgspec.Meta(ge=1)] = 16
    epochs: Annotated[int, msgspec.Meta(ge=1)] = 5


class ProjectFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``project.yaml``. seed: of the initial parameters."""

    name: Name
    version: str = "0"
    task: Literal["classify", "reconstruct"]
    channels: Annotated[tuple[Channel, ...], msgspec.Meta(min_length=1)]
    rate: Annotated[float, msgspec.Meta(gt=0)]
    length: Annotated[int, msgspec.Meta(gt=0)]
    stride: Annotated[int, msgspec.Meta(gt=0)]
    labels: tuple[str, ...] = ()
    seed: int = 0
    training: Training = Training()
    card: ModelCard = ModelCard()

    def problems(self) -> Iterable[tuple[tuple[str], str]]:
        """Cross-field mistakes."""
        if self.task == "classify" and len(self.labels) < 2:
            yield ("labels",), "expected at least two labels for a classify model"


class Project:
    """A loaded project; ``module`` has its initial parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = load(folder / "project.yaml", ProjectFile)
        torch.manual_seed(self.about.seed)
        self.module = self._module().train()
        self.calibration = read_calibration(
            folder / "calibration.npz", len(self.about.channels), self.about.length
        ).windows
        self._try()

    def windows(self, file: str) -> Calibration | None:
        """``training.npz`` or ``evaluation.npz`` of the folder; None if it is not there.

        A classify model's need labels. Raises CalibrationError or ProjectError.
        """
        path = self.folder / file
        if not path.exists():
            return None
        found = read_calibration(path, len(self.about.channels), self.about.length)
        if self.about.task == "classify" and found.labels is None:
            raise ProjectError(f"{path}: has no array 'labels': int64 (n,), the index of each window's label")
        if found.labels is not None and found.labels.max() >= len(self.about.labels):
            raise ProjectError(
                f"{path}: a label is {found.labels.max()}, but project.yaml names "
                f"{len(self.about.labels)} labels, counted from 0"
            )
        return found

    def _module(self) -> torch.nn.Module:
        path = self.folder / "model.py"
        spec = importlib.util.spec_from_file_location(f"marram_project_{self.about.name}", path)
        if spec is None or spec.loader is None or not path.exists():
            raise ProjectError(f"{path}: is not there; it should define model() -> torch.nn.Module")
        code = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(code)
            module = code.model()
        except AttributeError as error:
            raise ProjectError(f"{path}: should define model() -> torch.nn.Module: {error}") from error
        except Exception as error:
            raise ProjectError(f"{path}: {type(error).__name__}: {error}") from error
        if not isinstance(module, torch.nn.Module):
            raise ProjectError(f"{path}: model() gave {type(module).__name__}, not a torch.nn.Module")
        if any(True for _ in module.buffers()):
            names = ", ".join(name for name, _ in module.named_buffers())
            raise ProjectError(
                f"{path}: the module has buffers ({names}): only parameters are learnt and shared; "
                "use GroupNorm in place of BatchNorm, and plain constants for fixed numbers"
            )
        return module

    def _try(self) -> None:
        """Run the module on some windows, so that its own mistakes are told in its own words."""
        path = self.folder / "model.py"
        parameters = dict(self.module.named_parameters())
        if not parameters:
            raise ProjectError(f"{path}: the module has no parameters: there is nothing to learn")
        for name, value in parameters.items():
            if value.dtype != torch.float32:
                raise ProjectError(f"{path}: parameter {name} is {value.dtype}; it should be torch.float32")
        windows = torch.from_numpy(self.calibration[:_TRIED])
        try:
            with torch.no_grad():
                outputs, again = (self._outputs(self.module(windows)) for _ in range(2))
        except Exception as error:
            text = str(error).strip().splitlines()
            raise ProjectError(
                f"{path}: forward fails on windows of shape {tuple(windows.shape)}: "
                f"{text[0] if text else type(error).__name__}"
            ) from error
        count = len(windows)
        shape = (count, len(self.about.labels))
        if self.about.task == "classify" and [tuple(one.shape) for one in outputs] != [shape]:
            found = ", ".join(str(tuple(one.shape)) for one in outputs)
            raise ProjectError(
                f"{path}: forward should give logits of shape {shape}, a label each; it gives {found}"
            )
        shapes = {tuple(one.shape) for one in outputs}
        if self.about.task == "reconstruct" and (len(outputs) != 2 or shapes != {tuple(windows.shape)}):
            raise ProjectError(
                f"{path}: forward should give (normalised window, its reconstruction), both of shape "
                f"{tuple(windows.shape)}; it gives {', '.join(map(str, sorted(shapes)))}"
            )
        if not all(torch.equal(one, other) for one, other in zip(outputs, again, strict=True)):
            raise ProjectError(
                f"{path}: forward gives other outputs for the same windows, or NaN: it must not use chance "
                "(no Dropout), and be finite"
            )

    @staticmethod
    def _outputs(made: object) -> tuple[torch.Tensor, ...]:
        return tuple(made) if isinstance(made, tuple | list) else (cast(torch.Tensor, made),)

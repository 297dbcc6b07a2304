"""A workshop project: a folder with ``project.yaml`` and ``model.py``.

``model.py`` has a function ``model() -> torch.nn.Module``. Its forward takes float32
(batch, channels, length) in the channels' units, so normalisation is inside, and gives logits
(batch, classes) for ``classify``, or the pair (normalised window, its reconstruction) for ``reconstruct``.
For ``forecast`` it takes (batch, channels, length - horizon) and gives what comes then,
(batch, channels, horizon).
``model.py`` may also have a function ``backbone() -> torch.nn.Module``, or ``project.yaml`` name a file of
one: then it takes the windows, and what ``model`` gives takes its features.
``calibration.npz`` holds ``windows`` (n, channels, length), on which int8 ranges are measured.
"""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import torch
from marram.bundle.manifest import MOST_PARAMETERS
from numpy.typing import NDArray

from marram_cloud.litert.quantise import Wanted
from marram_cloud.projects.about import About, read
from marram_cloud.projects.code import Code, Failure, said
from marram_cloud.projects.errors import ProjectError
from marram_cloud.releases.calibration import Calibration
from marram_cloud.workshop import provenance
from marram_cloud.workshop.backbone import Backbone, BackboneError, BackboneFile, from_file, from_module
from marram_cloud.workshop.functions import Functions
from marram_cloud.workshop.losses import AnyLoss, usual
from marram_cloud.workshop.optimisers import AnyOptimiser, Sgd
from marram_cloud.workshop.plain import Plain
from marram_cloud.workshop.translations import UnsupportedError

_TRIED = 5
_CLASSIFY_ONLY = "only a classify model may have a backbone: the others need the windows themselves as target"


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Defaults that go into the manifest.

    optimiser: is in the graph and cannot be changed by a round. trainable: patterns of names of parameters
    ("head.*"); only these are trained and shared, all others are constants. statistics: whether BatchNorm's
    running means and variances follow the windows in training, and are shared, or stay as they are.
    """

    optimiser: AnyOptimiser = Sgd()
    trainable: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("*",)
    statistics: Literal["running", "frozen"] = "running"
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    batch: Annotated[int, msgspec.Meta(ge=1)] = 16
    epochs: Annotated[int, msgspec.Meta(ge=1)] = 5


class ProjectFile(About, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``project.yaml``. horizon: samples that a forecast is of. seed: of the initial parameters. tflite: how
    the form for LiteRT is quantised, where one is made."""

    task: Literal["classify", "reconstruct", "forecast"]
    horizon: Annotated[int, msgspec.Meta(ge=0)] = 0
    seed: int = 0
    loss: AnyLoss | None = None
    backbone: BackboneFile | None = None
    training: Training = Training()
    tflite: Wanted = "auto"

    def problems(self) -> Iterable[tuple[tuple[str, ...], str]]:
        """Cross-field mistakes."""
        yield from super().problems()
        if self.task == "classify" and len(self.labels) < 2:
            yield ("labels",), "expected at least two labels for a classify model"
        if (self.task == "forecast") != (self.horizon > 0) or self.horizon >= self.length:
            yield (
                ("horizon",),
                "expected for a forecast model, and for no other: at least 1, less than length",
            )
        if self.backbone is not None and self.task != "classify":
            yield ("backbone",), _CLASSIFY_ONLY
        if self.backbone is not None:
            for place, wrong in self.backbone.misfits(len(self.channels), self.length):
                yield ("backbone", place), wrong
        if self.loss is not None and self.task not in self.loss.tasks:
            yield ("loss",), f"this one is for {' and '.join(self.loss.tasks)} models"
        elif self.loss is not None:
            for problem in self.loss.misfits(len(self.labels)):
                yield ("loss",), problem


class Project:
    """A loaded project; ``functions`` has its module with the initial parameters.

    backbone: where there is one, the module takes its features, and ``calibration`` and ``windows`` are
    these.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = read(folder, ProjectFile)
        torch.manual_seed(self.about.seed)
        with provenance.modules_remembered():
            code = Code(folder, "torch.nn.Module", torch.nn.Module)
        self.functions = self._functions(self._made(code, "model"))
        calibration = self.about.windows(folder / "calibration.npz", self.about.task).windows
        self.backbone = self._backbone(code, calibration)
        self.calibration = calibration if self.backbone is None else self.backbone.features(calibration)
        self.functions = self._tried(self.functions)

    def windows(self, file: str) -> Calibration | None:
        """``training.npz`` or ``evaluation.npz`` of the folder; None if it is not there.

        A classify model's need labels. Raises CalibrationError or ProjectError.
        """
        found = self.about.judged(self.folder, self.about.task, file)
        if found is None or self.backbone is None:
            return found
        return replace(found, windows=self.backbone.features(found.windows))

    def with_module(self, module: torch.nn.Module) -> Project:
        """The same project with another module in place of that of its folder. Raises ProjectError."""
        other = copy.copy(self)
        other.functions = other._tried(other._functions(module))
        return other

    def _backbone(self, code: Code, windows: NDArray[np.float32]) -> Backbone | None:
        about, path = self.about.backbone, code.path
        own = code.defines("backbone")
        if about is None and not own:
            return None
        if about is not None and own:
            raise ProjectError(f"{path}: defines backbone(), and project.yaml names a file of one: keep one")
        if self.about.task != "classify":
            raise ProjectError(f"{path}: backbone(): {_CLASSIFY_ONLY}")
        source = path if about is None else self.folder / about.file
        try:
            if about is None:
                return from_module(self._made(code, "backbone"), windows)
            return from_file(source, about, windows)
        except (BackboneError, UnsupportedError) as error:
            raise ProjectError(f"{source}: {'backbone(): ' if own else ''}{error}") from error

    def _made(self, code: Code, name: str) -> torch.nn.Module:
        """What model() or backbone() gives."""
        with provenance.modules_remembered():
            module = code.made(name)
        if not isinstance(module, torch.nn.Module):
            raise ProjectError(f"{code.path}: {name}() gave {type(module).__name__}, not a torch.nn.Module")
        if isinstance(module, torch.jit.ScriptModule | torch.nn.DataParallel):
            raise ProjectError(
                f"{code.path}: {name}() gave a {type(module).__name__}: give the module that is in it, for a "
                "program is traced whole"
            )
        if torch.get_default_dtype() != torch.float32:
            torch.set_default_dtype(torch.float32)
            raise ProjectError(
                f"{code.path}: sets PyTorch's default type: leave out set_default_dtype, for programs are "
                "float32"
            )
        return module

    def _functions(self, module: torch.nn.Module) -> Functions:
        about, path = self.about, self.folder / "model.py"
        parameters = dict(module.named_parameters())
        for name, value in parameters.items():
            if isinstance(value, torch.nn.UninitializedParameter):
                raise ProjectError(f"{path}: {name} has no shape yet: give sizes in place of a Lazy layer")
        if not parameters:
            raise ProjectError(f"{path}: the module has no parameters: there is nothing to learn")
        for pattern in about.training.trainable:
            if not fnmatch.filter(parameters, pattern):
                raise ProjectError(
                    f"{self.folder / 'project.yaml'}: training.trainable: {pattern!r} matches no parameter; "
                    f"there are {', '.join(parameters)}"
                )
        trainable = tuple(
            name
            for name in parameters
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in about.training.trainable)
        )
        statistics, fixed = self._statistics(module, set(trainable))
        functions = Functions(
            module, about.task, about.loss or usual(about.task), about.training.optimiser, trainable,
            statistics, about.horizon, fixed,
        )  # fmt: skip
        count = sum(math.prod(shape) for shape in functions.shapes.values())
        if count > MOST_PARAMETERS:
            raise ProjectError(
                f"{path}: {count} parameters would be trained and travel, a device takes at most "
                f"{MOST_PARAMETERS}: name fewer in training.trainable, or make the module smaller"
            )
        tensors = {**parameters, **dict(module.named_buffers())}
        for name in functions.shapes:
            if tensors[name].dtype != torch.float32:
                raise ProjectError(f"{path}: {name} is {tensors[name].dtype}; it should be torch.float32")
        return functions

    def _statistics(
        self, module: torch.nn.Module, trainable: set[str]
    ) -> tuple[tuple[str, ...], tuple[torch.nn.Module, ...]]:
        """Names of running means and variances that follow the windows, and the modules whose stay."""
        following: list[str] = []
        fixed = []
        for name, part in module.named_modules():
            if not isinstance(part, torch.nn.modules.batchnorm._NormBase) or part.running_mean is None:
                continue
            if not isinstance(part, torch.nn.modules.batchnorm._BatchNorm) or part.momentum is None:
                raise ProjectError(
                    f"{self.folder / 'model.py'}: {name or 'the module'}: {part} is not supported: give a "
                    "BatchNorm a number as momentum, and an InstanceNorm no running statistics"
                )
            own = [f"{name}.{one}".lstrip(".") for one in ("weight", "bias", "running_mean", "running_var")]
            if self.about.training.statistics == "frozen" or (part.affine and not trainable & set(own[:2])):
                fixed.append(part)
            else:
                following += own[2:]
        return tuple(following), tuple(fixed)

    def _tried(self, functions: Functions) -> Functions:
        """Run the module on some windows, so that its own mistakes are told in its own words."""
        path = self.folder / "model.py"
        windows = torch.from_numpy(self.calibration[:_TRIED].copy())
        plain = Plain(torch.tensor(1))
        before = {name: one.clone() for name, one in functions.module.named_buffers()}
        try:
            with torch.no_grad():
                outputs = self._outputs(functions(windows, Plain(), training=False))
                alone = self._outputs(functions(windows[:1], Plain(), training=False))
                first, again = (
                    self._outputs(functions(windows, one, training=True))
                    for one in (plain, Plain(plain.seed))
                )
        except ProjectError:
            raise
        except Failure as error:
            place = provenance.of_error(error)
            raise ProjectError(
                f"{path}: forward fails on windows of shape {tuple(functions.seen(windows).shape)}: "
                f"{said(error)}{f' ({place})' if place else ''}"
            ) from error
        if not np.array_equal(windows.numpy(), self.calibration[:_TRIED]):
            raise ProjectError(
                f"{path}: forward changes the windows that it is given: make a new tensor, as x = x - 1 does "
                "in place of x -= 1"
            )
        self._check_shapes(path, windows, outputs)
        shapes = [tuple(one.shape) for one in alone]
        if shapes != [(1, *one.shape[1:]) for one in outputs]:
            raise ProjectError(
                f"{path}: forward gives {', '.join(map(str, shapes))} for a batch of one window: keep the "
                "batch's axis, as squeeze(2) does in place of squeeze()"
            )
        for name, buffer in functions.module.named_buffers():
            if not torch.equal(buffer, before[name]):
                raise ProjectError(
                    f"{path}: forward changes its buffer {name!r}, but a program remembers nothing: leave "
                    "out what counts or adapts as it goes, but for BatchNorm"
                )
        if not all(torch.equal(one, other) for one, other in zip(first, again, strict=True)):
            raise ProjectError(
                f"{path}: forward gives other outputs for the same windows, or NaN: it must be finite, and "
                "use no chance but that of nn.Dropout"
            )
        return replace(functions, chance=plain.used > 0)

    def _check_shapes(self, path: Path, windows: torch.Tensor, outputs: tuple[torch.Tensor, ...]) -> None:
        shapes = [tuple(one.shape) for one in outputs]
        found = ", ".join(map(str, shapes))
        window = tuple(windows.shape)
        if self.about.task == "classify" and shapes != [(len(windows), len(self.about.labels))]:
            raise ProjectError(
                f"{path}: forward should give logits of shape {(len(windows), len(self.about.labels))}, "
                f"a label each; it gives {found}"
            )
        if self.about.task == "classify" and _are_probabilities(outputs[0]):
            raise ProjectError(
                f"{path}: forward gives probabilities: leave out the softmax at its end, for the loss has one"
            )
        if self.about.task == "reconstruct" and shapes != [window, window]:
            raise ProjectError(
                f"{path}: forward should give (normalised window, its reconstruction), both of shape "
                f"{window}; it gives {found}"
            )
        wanted = (*window[:2], self.about.horizon)
        if self.about.task == "forecast" and shapes != [wanted]:
            raise ProjectError(
                f"{path}: forward should give what comes after (batch, channels, length - horizon), of shape "
                f"{wanted}; it gives {found}"
            )

    def _outputs(self, made: object) -> tuple[torch.Tensor, ...]:
        """Raises ProjectError where it is no tensor, or for reconstruct no pair of them."""
        if self.about.task == "reconstruct" and isinstance(made, tuple | list):
            return tuple(made)
        if not isinstance(made, torch.Tensor):
            raise ProjectError(
                f"{self.folder / 'model.py'}: forward should give one tensor, it gives a "
                f"{type(made).__name__}"
            )
        return (made,)


def _are_probabilities(scores: torch.Tensor) -> bool:
    """(n, classes): none below 0, and each row adds up to 1."""
    return bool((scores >= 0).all()) and torch.allclose(scores.sum(dim=1), torch.tensor(1.0), atol=1e-4)

"""One training step of a project in PyTorch, as anybody would write it."""

from __future__ import annotations

import copy

import numpy as np
import torch
from marram_cloud.workshop.optimisers import AdamW
from marram_cloud.workshop.project import Project
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Windows, Labels = NDArray[np.float32], NDArray[np.int64]


class Eager:
    """PyTorch's own modules, losses, gradients and optimiser, behind the project's backbone.

    compiled: by ``torch.compile``. module: as it is trained.
    """

    def __init__(self, project: Project, compiled: bool = False) -> None:
        about, functions = project.about, project.functions
        self._task, self._horizon, self._names = about.task, about.horizon, list(functions.shapes)
        module = copy.deepcopy(functions.module).train()
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and about.training.statistics == "frozen":
                part.eval()
        for name, value in module.named_parameters():
            value.requires_grad_(name in functions.trainable)
        self._moved = [value for value in module.parameters() if value.requires_grad]
        rate, chosen = about.training.learning_rate, about.training.optimiser
        self._clip = chosen.clip
        self._optimiser: torch.optim.Optimizer
        if isinstance(chosen, AdamW):
            self._optimiser = torch.optim.AdamW(
                self._moved, rate, chosen.betas, chosen.epsilon, chosen.weight_decay
            )
        else:
            self._optimiser = torch.optim.SGD(
                self._moved, rate, chosen.momentum, weight_decay=chosen.weight_decay
            )
        self._seen = project.backbone.features if project.backbone is not None else lambda windows: windows
        self.module = torch.compile(module) if compiled else module

    def step(self, x: Windows, y: Labels) -> float:
        """The loss before it."""
        self._optimiser.zero_grad()
        loss = self.loss(torch.from_numpy(self._seen(x)), torch.from_numpy(y))
        loss.backward()
        if self._clip:
            nn.utils.clip_grad_norm_(self._moved, self._clip)
        self._optimiser.step()
        return loss.item()

    @property
    def parameters(self) -> NDArray[np.float32]:
        """As the bundle's flat vector has them."""
        held = self.module.state_dict()
        return torch.cat([held[name].flatten() for name in self._names]).numpy()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The losses that the zoo has."""
        if self._task == "classify":
            return functional.cross_entropy(self.module(x), y)
        if self._task == "forecast":
            past, target = x[:, :, : -self._horizon], x[:, :, -self._horizon :]
            return functional.huber_loss(self.module(past), target)
        target, made = self.module(x)
        return functional.mse_loss(made, target)

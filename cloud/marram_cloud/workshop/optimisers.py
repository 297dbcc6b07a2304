"""Optimisers as pure functions of flat vectors; ``training.optimiser`` in ``project.yaml`` chooses one."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor

Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class Optimiser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """clip: largest norm of the whole gradient (torch.nn.utils.clip_grad_norm_); 0 does not clip."""

    clip: NotNegative = 0.0

    def state(self, count: int) -> int:
        """Length of the state vector for so many parameters; it begins as zeros."""
        raise NotImplementedError

    def step(
        self, parameters: Tensor, gradient: Tensor, state: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(new parameters, new state). All but rate, a scalar, are vectors."""
        raise NotImplementedError

    def clipped(self, gradient: Tensor) -> Tensor:
        if not self.clip:
            return gradient
        return gradient * torch.clamp(self.clip / (gradient.square().sum().sqrt() + 1e-6), max=1.0)


class Sgd(Optimiser, frozen=True, tag="sgd"):
    """With momentum (Sutskever et al., 2013, in PyTorch's form). weight_decay: PyTorch's, an L2 penalty."""

    momentum: Share = 0.9
    weight_decay: NotNegative = 0.0

    def __str__(self) -> str:
        return f"sgd(momentum={self.momentum:g})"

    def state(self, count: int) -> int:
        return count

    def step(
        self, parameters: Tensor, gradient: Tensor, state: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.weight_decay:
            gradient = gradient + self.weight_decay * parameters
        velocity = self.momentum * state + gradient
        return parameters - rate * velocity, velocity


class AdamW(Optimiser, frozen=True, tag="adamw"):
    """Adam with decoupled weight decay (arXiv 1711.05101). State: both moments and the number of steps."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    epsilon: Annotated[float, msgspec.Meta(gt=0)] = 1e-8
    weight_decay: NotNegative = 0.01

    def __str__(self) -> str:
        return f"adamw(betas={self.betas[0]:g}, {self.betas[1]:g})"

    def state(self, count: int) -> int:
        return 2 * count + 1

    def step(
        self, parameters: Tensor, gradient: Tensor, state: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor]:
        count = parameters.shape[0]
        first, second = self.betas
        mean = first * state[:count] + (1 - first) * gradient
        square = second * state[count : 2 * count] + (1 - second) * gradient.square()
        steps = state[2 * count :] + 1
        # In units of epsilon: the exporter takes so small a summand for 0 and leaves it out.
        unbiased = mean / (1 - first**steps) / self.epsilon
        spread = (square / (1 - second**steps)).sqrt() / self.epsilon + 1
        decayed = parameters * (1 - rate * self.weight_decay)
        return decayed - rate * (unbiased / spread), torch.cat([mean, square, steps])


AnyOptimiser = Sgd | AdamW

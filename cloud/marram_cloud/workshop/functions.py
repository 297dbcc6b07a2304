"""The bundle's programs as pure PyTorch functions of flat vectors; ``docs/bundles.md`` describes each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

_TINY = 1e-6


@dataclass(frozen=True)
class Functions:
    """The programs of one module. task: "classify" or "reconstruct". momentum: SGD's."""

    module: nn.Module
    task: str
    momentum: float

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the parameters, by name, in the order of the flat vector."""
        return {name: tuple(value.shape) for name, value in self.module.named_parameters()}

    def flat(self) -> Tensor:
        """The module's own parameters as one vector, float32 (P,)."""
        return torch.cat([value.detach().reshape(-1) for value in self.module.parameters()])

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat vector as named tensors."""
        shapes = self.shapes
        parts = torch.split(flat, [math.prod(shape) for shape in shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def losses(self, tensors: dict[str, Tensor], x: Tensor, y: Tensor | None) -> Tensor:
        """One loss a window, (batch,): cross-entropy, or the mean squared error of the reconstruction."""
        out = functional_call(self.module, tensors, (x,))
        if self.task == "classify":
            return nn.functional.cross_entropy(out, y, reduction="none")
        target, made = out
        return (made - target).square().mean(dim=(1, 2))

    def train(
        self, parameters: Tensor, state: Tensor, x: Tensor, y: Tensor | None, weight: Tensor,
        learning_rate: Tensor, anchor: Tensor, mu: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """One step of SGD with momentum (Sutskever et al., 2013, in PyTorch's form) and FedProx's proximal
        term (Li et al., arXiv 1812.06127); the loss is the weighted mean."""

        def mean_loss(tensors: dict[str, Tensor]) -> Tensor:
            return (self.losses(tensors, x, y) * weight).sum() / torch.clamp(weight.sum(), min=_TINY)

        gradients, loss = grad_and_value(mean_loss)(self.split(parameters))
        flat = torch.cat([gradients[name].reshape(-1) for name in self.shapes])
        velocity = self.momentum * state + (flat + mu * (parameters - anchor))
        return parameters - learning_rate * velocity, velocity, loss

    def evaluate(self, parameters: Tensor, x: Tensor, y: Tensor | None, weight: Tensor) -> tuple[Tensor, ...]:
        """(sum of losses, sum of weights) and, for classify, the weighted number of correct windows."""
        tensors = self.split(parameters)
        loss = (self.losses(tensors, x, y) * weight).sum()
        if self.task != "classify":
            return loss, weight.sum()
        logits = functional_call(self.module, tensors, (x,))
        correct = ((logits.argmax(dim=1) == y).to(weight.dtype) * weight).sum()
        return loss, weight.sum(), correct

    def predict(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """(scores,) for classify; (score, channel_scores) for reconstruct."""
        out = functional_call(self.module, self.split(parameters), (x,))
        if self.task == "classify":
            return (torch.softmax(out, dim=1),)
        target, made = out
        error = (made - target).square()
        return error.mean(dim=(1, 2)), error.mean(dim=2)

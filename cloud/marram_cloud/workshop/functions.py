"""The bundle's programs as pure PyTorch functions of flat vectors; ``docs/bundles.md`` describes each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from marram_cloud.workshop.losses import Loss
from marram_cloud.workshop.optimisers import Optimiser
from marram_cloud.workshop.plain import Plain

_TINY = 1e-6


@dataclass(frozen=True)
class Functions:
    """The programs of one module.

    task: "classify", "reconstruct" or "forecast". trainable: the names of the parameters that are trained.
    statistics: the names of BatchNorm's running means and variances that follow the windows in training.
    Both together are the flat vector, in this order; all else of the module is constant. horizon: samples at
    the end of a window that a forecast is of. fixed: modules that stay in evaluation mode. chance: whether
    training takes a seed, for there is dropout.
    """

    module: nn.Module
    task: str
    loss: Loss
    optimiser: Optimiser
    trainable: tuple[str, ...]
    statistics: tuple[str, ...] = ()
    horizon: int = 0
    fixed: tuple[nn.Module, ...] = ()
    chance: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors in the flat vector, by name, in its order."""
        tensors = self._tensors()
        return {name: tuple(tensors[name].shape) for name in (*self.trainable, *self.statistics)}

    @property
    def trained(self) -> int:
        """How many numbers of the flat vector the optimiser moves: its first ones."""
        shapes = self.shapes
        return sum(math.prod(shapes[name]) for name in self.trainable)

    def flat(self) -> Tensor:
        """The module's own values as one vector, float32 (P,)."""
        tensors = self._tensors()
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.shapes])

    def __call__(self, x: Tensor, plain: Plain, training: bool) -> Any:  # noqa: ANN401
        """What the module itself makes of windows, as it gives it."""
        return self._call(self.split(self.flat()), self.seen(x), plain, training)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat vector as named tensors."""
        shapes = self.shapes
        parts = torch.split(flat, [math.prod(shape) for shape in shapes.values()])
        return {
            name: part if len(shape) == 1 else part.reshape(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def train(
        self, parameters: Tensor, state: Tensor, x: Tensor, y: Tensor | None, weight: Tensor,
        learning_rate: Tensor, anchor: Tensor, mu: Tensor, seed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """One step of the optimiser, with FedProx's proximal term (Li et al., arXiv 1812.06127); the loss is
        the weighted mean. seed: int64 (), of dropout."""
        tensors, count = self.split(parameters), self.trained
        moved = {name: tensors.pop(name) for name in self.trainable}
        plain = Plain(seed)

        def mean_loss(moved: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            made, target = self._made({**moved, **tensors}, x, y, plain, training=True)
            each = self.loss.each(made, target, weight) * weight
            loss = each.sum() / torch.clamp((self.loss.counts(target) * weight).sum(), min=_TINY)
            return loss, self._moved(parameters[count:], tensors, plain)

        gradients, (loss, statistics) = grad_and_value(mean_loss, has_aux=True)(moved)
        gradient = torch.cat([gradients[name].flatten() for name in self.trainable])
        own, anchored = (parameters[:count], anchor[:count]) if self.statistics else (parameters, anchor)
        gradient = self.optimiser.clipped(gradient + mu * (own - anchored))
        new, new_state = self.optimiser.step(own, gradient, state, learning_rate)
        if self.statistics:
            new = torch.cat([new, statistics])
        return new, new_state, loss

    def evaluate(self, parameters: Tensor, x: Tensor, y: Tensor | None, weight: Tensor) -> tuple[Tensor, ...]:
        """(sum of losses, sum of weights) and, for classify, the weighted number of correct windows."""
        made, target = self._made(self.split(parameters), x, y, Plain(), training=False)
        loss = (self.loss.each(made, target, weight) * weight).sum()
        if self.task != "classify":
            return loss, weight.sum()
        correct = ((made.argmax(dim=1) == y).to(weight.dtype) * weight).sum()
        return loss, weight.sum(), correct

    def predict(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """(scores,) for classify; (score, channel_scores) for reconstruct, and for forecast what comes after
        the window too, (batch, channels, horizon)."""
        tensors = self.split(parameters)
        made, target = self._made(tensors, x, None, Plain(), training=False)
        if self.task == "classify":
            return (self.loss.scores(made),)
        error = (made - target).square()
        score = error.mean(dim=(1, 2)), error.mean(dim=2)
        if self.task != "forecast":
            return score
        return (*score, self._call(tensors, x[:, :, self.horizon :], Plain(), training=False))

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    def _made(
        self, tensors: dict[str, Tensor], x: Tensor, y: Tensor | None, plain: Plain, training: bool
    ) -> tuple[Tensor, Tensor]:
        """(what the module makes of the windows, what it should have made)."""
        return self.pair(self._call(tensors, self.seen(x), plain, training), x, y)

    def pair(self, out: Any, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """(what the module made of the windows, what it should have made). out: what forward gave."""
        if self.task == "forecast":
            return out, x[:, :, -self.horizon :]
        if self.task == "classify":
            return out, x if y is None else y
        target, made = out
        return made, target

    def seen(self, x: Tensor) -> Tensor:
        """What forward is given of windows: without the end, where that is what it should foretell."""
        return x[:, :, : -self.horizon] if self.task == "forecast" else x

    def _call(self, tensors: dict[str, Tensor], x: Tensor, plain: Plain, training: bool) -> Any:  # noqa: ANN401
        self.module.train(training)
        for module in self.fixed:
            module.eval()
        # PyTorch counts in place; nobody reads it.
        counters = {
            name: torch.zeros((), dtype=torch.int64)
            for name, _ in self.module.named_buffers()
            if name.endswith("num_batches_tracked")
        }
        plain.windows = x
        with plain.installed():
            return functional_call(self.module, {**tensors, **counters}, (x,))

    def _moved(self, old: Tensor, tensors: dict[str, Tensor], plain: Plain) -> Tensor:
        """The running statistics after the batch, as one vector. old: before; tensors: the same by name."""
        if not self.statistics:
            return old
        # A module that forward does not call keeps what it has.
        seen = [plain.seen.get(id(tensors[name]), tensors[name]) for name in self.statistics]
        modules = dict(self.module.named_modules())
        momenta = [cast(float, modules[name.rpartition(".")[0]].momentum) for name in self.statistics]
        step: float | Tensor = momenta[0]
        if len(set(momenta)) > 1:
            step = torch.cat([torch.full_like(one, part) for one, part in zip(seen, momenta, strict=True)])
        return old + step * (torch.cat(seen) - old)

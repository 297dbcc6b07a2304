"""Losses: one number a window, as PyTorch defines them; ``loss:`` in ``project.yaml`` chooses one.

Each gives the losses of a batch, float32 (batch,), and what a window counts in their mean, (batch,): it is
masked and averaged outside. classify: ``made`` are logits (batch, classes), ``target`` is int64 (batch,).
reconstruct and forecast: both are (batch, channels, samples).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

Positive = Annotated[float, msgspec.Meta(gt=0)]


class Loss(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """tasks: that it fits."""

    tasks: ClassVar[tuple[str, ...]] = ("reconstruct", "forecast")

    def each(self, made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """The loss of each window, (batch,). weight: of each; it is 0 for one that is only padding."""
        raise NotImplementedError

    def counts(self, target: Tensor) -> Tensor | float:
        """What each window counts in the mean."""
        return 1.0

    def scores(self, made: Tensor) -> Tensor:
        """Logits as probabilities (batch, classes); classify only."""
        return torch.softmax(made, dim=1)

    def misfits(self, classes: int) -> Iterable[str]:
        """What does not fit a model with so many classes."""
        return ()


class CrossEntropy(Loss, frozen=True, tag="cross-entropy"):
    """class_weights: by label, all 1 when empty. smoothing: label smoothing (arXiv 1512.00567)."""

    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    class_weights: tuple[Positive, ...] = ()
    smoothing: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0

    def each(self, made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        weights = torch.tensor(self.class_weights) if self.class_weights else None
        return functional.cross_entropy(
            made, target, weights, reduction="none", label_smoothing=self.smoothing
        )

    def counts(self, target: Tensor) -> Tensor | float:
        return torch.tensor(self.class_weights)[target] if self.class_weights else 1.0

    def misfits(self, classes: int) -> Iterable[str]:
        if self.class_weights and len(self.class_weights) != classes:
            yield f"class_weights has {len(self.class_weights)} numbers, there are {classes} labels"


class BinaryCrossEntropy(Loss, frozen=True, tag="binary-cross-entropy"):
    """One yes or no a class: a sigmoid each. positive_weight: what a yes counts against a no."""

    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    positive_weight: Positive = 1.0

    def each(self, made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        of_labels = (target[:, None] == torch.arange(made.shape[1])).to(torch.float32)
        # -log(sigmoid(z)) = softplus(-z), which does not overflow.
        yes, no = functional.softplus(-made), functional.softplus(made)
        return (self.positive_weight * of_labels * yes + (1 - of_labels) * no).mean(dim=1)

    def scores(self, made: Tensor) -> Tensor:
        return torch.sigmoid(made)


class MeanSquaredError(Loss, frozen=True, tag="mse"):
    """The mean of the squares of the errors."""

    def each(self, made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return _mean((made - target).square())


class Huber(Loss, frozen=True, tag="huber"):
    """Squared below ``delta``, linear above (Huber, 1964), in PyTorch's form."""

    delta: Positive = 1.0

    def each(self, made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return _mean(functional.huber_loss(made, target, reduction="none", delta=self.delta))


class Quantile(Loss, frozen=True, tag="quantile"):
    """The pinball loss (Koenker and Bassett, 1978): ``made`` becomes the target's quantile."""

    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5

    def each(self, made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        below = target - made
        return _mean(torch.maximum(self.quantile * below, (self.quantile - 1) * below))


class InfoNce(Loss, frozen=True, tag="infonce"):
    """Which of the batch's targets is this window's own (InfoNCE, arXiv 1807.03748), by cosine similarity."""

    temperature: Positive = 0.1

    def each(self, made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        one, other = (functional.normalize(value.flatten(1), dim=1) for value in (made, target))
        # Padding is nobody's candidate.
        similar = one @ other.T / self.temperature + torch.where(weight > 0, 0.0, -1e9)
        places = torch.arange(made.shape[0])
        own = (places[:, None] == places).to(made.dtype)
        return -(torch.log_softmax(similar, dim=1) * own).sum(dim=1)


AnyLoss = CrossEntropy | BinaryCrossEntropy | MeanSquaredError | Huber | Quantile | InfoNce


def usual(task: str) -> AnyLoss:
    """The loss of a project that names none."""
    return CrossEntropy() if task == "classify" else MeanSquaredError()


def _mean(errors: Tensor) -> Tensor:
    return errors.flatten(1).mean(dim=1)

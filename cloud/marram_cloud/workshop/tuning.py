"""Training in PyTorch on the author's machine: before pruning, after it, and for int8."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from marram_cloud.workshop.functions import Functions

_TEMPERATURE = 2.0
_TINY = 1e-6
_SMALLEST = 0.01  # of the first learning rate, at the end


@dataclass(frozen=True)
class Lessons:
    """What to learn from. x: float32 (n, channels, length). y: int64 (n,), or None without labels.

    functions: of the project: its loss, and what forward sees of a window.
    """

    x: Tensor
    y: Tensor | None
    functions: Functions
    epochs: int = 20
    batch: int = 32
    learning_rate: float = 2e-3
    seed: int = 0

    def loss(self, out: Tensor | tuple[Tensor, ...], x: Tensor, y: Tensor | None) -> Tensor:
        """The mean over a batch, (). out: what forward gave."""
        made, target = self.functions.pair(out, x, y)
        ones = torch.ones(len(x))
        loss = self.functions.loss
        return loss.each(made, target, ones).sum() / torch.clamp(
            (loss.counts(target) * ones).sum(), min=_TINY
        )

    def frozen_norms(self, module: nn.Module) -> list[nn.Module]:
        """Those of the module whose running statistics are to stay, by their names in the project's."""
        fixed = {id(one) for one in self.functions.fixed}
        names = {name for name, one in self.functions.module.named_modules() if id(one) in fixed}
        return [one for name, one in module.named_modules() if name in names]


def tune(module: nn.Module, lessons: Lessons, teacher: nn.Module | None = None) -> None:
    """Train the module in place: AdamW with a cosine schedule, the same every time.

    With a teacher half of the loss is the difference from what it says (Hinton et al., arXiv 1503.02531).
    """
    generator = torch.Generator().manual_seed(lessons.seed)
    torch.manual_seed(lessons.seed)  # dropout
    learnt = [one for one in module.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=lessons.learning_rate)
    count = len(lessons.x)
    steps = max(1, lessons.epochs * math.ceil(count / lessons.batch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, steps, eta_min=lessons.learning_rate * _SMALLEST
    )
    module.train()
    for norm in lessons.frozen_norms(module):
        norm.eval()
    if teacher is not None:
        teacher.eval()
    for _ in range(lessons.epochs):
        for chosen in torch.randperm(count, generator=generator).split(lessons.batch):
            x = lessons.x[chosen]
            y = None if lessons.y is None else lessons.y[chosen]
            seen = lessons.functions.seen(x)
            said = module(seen)
            loss = lessons.loss(said, x, y)
            if teacher is not None:
                loss = (loss + _distance(said, teacher, seen, lessons.functions.task)) / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def _distance(said: Tensor | tuple[Tensor, ...], teacher: nn.Module, seen: Tensor, task: str) -> Tensor:
    with torch.no_grad():
        wanted = teacher(seen)
    if isinstance(said, tuple):
        return torch.stack(
            [functional.mse_loss(one, other) for one, other in zip(said, wanted, strict=True)]
        ).sum()
    if task != "classify":
        return functional.mse_loss(said, wanted)
    return _TEMPERATURE**2 * functional.kl_div(
        functional.log_softmax(said / _TEMPERATURE, dim=1),
        functional.log_softmax(wanted / _TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )

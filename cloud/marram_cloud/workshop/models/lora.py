"""Low-rank adapters (LoRA; Hu et al., arXiv 2106.09685) on the Linear and convolution layers of a module."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
PATTERN = "*.parametrizations.weight.0.*"
"""What ``training.trainable`` names to train the adapters alone."""


class Adapter(nn.Module):
    """A weight plus a product of two thin matrices; it begins as the weight itself.

    The sum depends on no window, so an int8 program holds one weight and infers as fast as without.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        rows, columns = weight.shape[0], math.prod(weight.shape[1:])
        self.scale = scale / rank
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.down = nn.Parameter(torch.randn(rank, columns) / math.sqrt(columns))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.scale * self.up @ self.down).reshape(weight.shape)


def adapt(module: nn.Module, rank: int, scale: float = 1.0) -> nn.Module:
    """The same module with an adapter of this rank on every Linear and convolution."""
    layers: list[Any] = [part for part in module.modules() if isinstance(part, _ADAPTED)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Adapter(layer.weight, rank, scale))
    return module

"""A plain network on a few features of each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Features(nn.Module):
    """Logits from windows (batch, channels, length) by their mean, spread, extremes and roughness."""

    def __init__(self, channels: int, classes: int, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(5 * channels), nn.Linear(5 * channels, hidden), nn.SiLU(), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        roughness = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=2)
        spread = (x.var(dim=2) + 1e-6).sqrt()
        seen = torch.cat([x.mean(dim=2), spread, x.amin(dim=2), x.amax(dim=2), roughness], dim=1)
        return self.layers(seen)

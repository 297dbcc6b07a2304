"""An autoencoder over windows: where there are no labels, a device learns with it what is normal there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Windows (batch, channels, length) through a bottleneck and back.

    centre, spread: of each channel, in its unit; a window is normalised by them, inside the graph. The tanh
    keeps what is far off from being followed, so it cannot be reconstructed, and scores high.
    """

    def __init__(
        self,
        centre: Sequence[float],
        spread: Sequence[float],
        length: int,
        hidden: int = 24,
        bottleneck: int = 6,
    ) -> None:
        super().__init__()
        self.channels, self.length = len(centre), length
        self.centre, self.spread = tuple(centre), tuple(spread)
        size = self.channels * length
        self.encode = nn.Sequential(
            nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, bottleneck), nn.Tanh()
        )
        self.decode = nn.Sequential(nn.Linear(bottleneck, hidden), nn.Tanh(), nn.Linear(hidden, size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x in the channels' units -> (normalised window, its reconstruction), shaped as x."""
        normalised = torch.cat(
            [
                (x[:, row : row + 1] - centre) / spread
                for row, (centre, spread) in enumerate(zip(self.centre, self.spread, strict=True))
            ],
            dim=1,
        )
        made = self.decode(self.encode(normalised.reshape(-1, self.channels * self.length)))
        return normalised, made.reshape(-1, self.channels, self.length)

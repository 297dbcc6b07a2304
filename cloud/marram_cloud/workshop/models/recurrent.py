"""A forecaster with gated recurrent units (GRU; Cho et al., arXiv 1406.1078)."""

from __future__ import annotations

from torch import Tensor, nn


class Forecaster(nn.Module):
    """From the past (batch, channels, steps) what comes after it, (batch, channels, horizon)."""

    def __init__(self, channels: int, horizon: int, hidden: int = 16) -> None:
        super().__init__()
        self.remember = nn.GRU(channels, hidden, batch_first=True)
        self.foretell = nn.Sequential(
            nn.Linear(hidden, channels * horizon), nn.Unflatten(1, (channels, horizon))
        )

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.remember(x.transpose(1, 2))
        # Differences from the last value are small, whatever the unit.
        return x[:, :, -1:] + self.foretell(states[:, -1])

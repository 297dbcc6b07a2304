"""A forecaster with recurrent units: gated ones (GRU; Cho et al., arXiv 1406.1078) or an LSTM."""

from __future__ import annotations

from torch import Tensor, nn


class Forecaster(nn.Module):
    """From the past (batch, channels, steps) what comes after it, (batch, channels, horizon)."""

    def __init__(
        self, channels: int, horizon: int, hidden: int = 16, unit: type[nn.GRU | nn.LSTM] = nn.GRU
    ) -> None:
        super().__init__()
        self.remember = unit(channels, hidden, batch_first=True)
        self.foretell = nn.Sequential(
            nn.Linear(hidden, channels * horizon), nn.Unflatten(1, (channels, horizon))
        )

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.remember(x.transpose(1, 2))
        # Differences from the last value are small, whatever the unit.
        return x[:, :, -1:] + self.foretell(states[:, -1])

"""Anomaly detection: the dense autoencoder of MLPerf Tiny (DCASE 2020, task 2)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class AnomalyDetection(nn.Module):
    """A few frames of a spectrogram (batch, bands, frames) through eight numbers and back."""

    def __init__(self, bands: int = 128, frames: int = 5, hidden: int = 128, bottleneck: int = 8) -> None:
        super().__init__()
        sizes = [bands * frames, hidden, hidden, hidden, hidden, bottleneck, hidden, hidden, hidden, hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inside, outside in pairwise(sizes):
            layers += [nn.Linear(inside, outside), nn.BatchNorm1d(outside), nn.ReLU()]
        layers += [nn.Linear(sizes[-1], sizes[0]), nn.Unflatten(1, (bands, frames))]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.layers(x)

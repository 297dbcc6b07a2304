"""A small autoencoder over a machine's load: what it cannot reconstruct is not normal for this machine."""

import torch
from torch import Tensor, nn

CHANNELS, LENGTH = 9, 16
BUSY_BYTES = 1e5  # bytes a second from which disk and network count as busy


class HostLoad(nn.Module):
    """144 numbers through a bottleneck of 6 and back; tanh, so that what is far off is not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(CHANNELS * LENGTH, 24), nn.Tanh(), nn.Linear(24, 6), nn.Tanh())
        self.decode = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, CHANNELS * LENGTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, 9, 16) in the channels' units -> (normalised window, its reconstruction)."""
        normalised = normalise(x)
        made = self.decode(self.encode(normalised.reshape(-1, CHANNELS * LENGTH)))
        return normalised, made.reshape(-1, CHANNELS, LENGTH)


def normalise(x: Tensor) -> Tensor:
    """Every channel to about 0 (idle) to 1 (as busy as can be), on any machine."""
    x = torch.relu(x)  # none of them can be below 0
    percent = x[:, 0:3] / 100
    load = x[:, 3:4] / (1 + x[:, 3:4])
    rates = torch.log(1 + x[:, 4:8] / BUSY_BYTES) / 8
    temperature = x[:, 8:9] / 100
    return torch.cat([percent, load, rates, temperature], dim=1)


def model() -> nn.Module:
    return HostLoad()

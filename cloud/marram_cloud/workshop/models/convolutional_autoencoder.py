"""An autoencoder of convolutions and their transposes."""

from __future__ import annotations

from torch import Tensor, nn


class ConvolutionalAutoencoder(nn.Module):
    """Windows (batch, channels, length), length a multiple of 4, through a quarter of the steps and back."""

    def __init__(self, channels: int, width: int = 16, bottleneck: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, width, 5, stride=2, padding=2), nn.GELU(),
            nn.Conv1d(width, bottleneck, 5, stride=2, padding=2), nn.Tanh(),
            nn.ConvTranspose1d(bottleneck, width, 4, stride=2, padding=1), nn.GELU(),
            nn.ConvTranspose1d(width, channels, 4, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.layers(x)

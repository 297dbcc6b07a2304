"""Keyword spotting: DS-CNN (Zhang et al., arXiv 1711.07128), as in MLPerf Tiny (arXiv 2106.07597)."""

from __future__ import annotations

from torch import Tensor, nn


class KeywordSpotting(nn.Module):
    """Logits of words from one second's spectrogram (batch, coefficients, frames).

    coefficients: features a frame, the channels of the window. width: of the separable convolutions.
    """

    def __init__(self, classes: int = 12, coefficients: int = 10, width: int = 64) -> None:
        super().__init__()
        self.coefficients = coefficients
        self.first = nn.Sequential(
            nn.Conv2d(1, width, (4, 10), stride=2, padding=(1, 5), bias=False),
            nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2),
        )  # fmt: skip
        self.blocks = nn.Sequential(*(separable(width, width) for _ in range(4)))
        self.classify = nn.Sequential(nn.Dropout(0.4), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(self.first(x.unsqueeze(1)))
        return self.classify(features.mean(dim=(2, 3)))


def separable(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    """A depthwise convolution, then one over the channels, each with BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, stride=stride, padding=1, groups=channels_in, bias=False),
        nn.BatchNorm2d(channels_in), nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out), nn.ReLU(),
    )  # fmt: skip

"""Image classification: ResNet-8 (He et al., arXiv 1512.03385), as in MLPerf Tiny."""

from __future__ import annotations

from torch import Tensor, nn


class ImageClassification(nn.Module):
    """Logits of what is in a picture; a window is (batch, colours, side * side), 0 to 1."""

    def __init__(self, classes: int = 10, colours: int = 3, side: int = 32, width: int = 16) -> None:
        super().__init__()
        self.picture = nn.Unflatten(2, (side, side))
        self.first = nn.Sequential(
            nn.Conv2d(colours, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            Residual(width, width, 1), Residual(width, 2 * width, 2), Residual(2 * width, 4 * width, 2)
        )
        self.classify = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.blocks(self.first(self.picture(x))).mean(dim=(2, 3)))


class Residual(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out), nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )  # fmt: skip
        same = channels_in == channels_out and stride == 1
        self.past = (
            nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.layers(x) + self.past(x)).relu()

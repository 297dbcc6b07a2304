"""Visual wake words: MobileNetV1 0.25 (Howard et al., arXiv 1704.04861), as in MLPerf Tiny."""

from __future__ import annotations

from torch import Tensor, nn

from marram_cloud.workshop.models.keyword_spotting import separable

_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


class VisualWakeWords(nn.Module):
    """Logits of whether there is somebody in a picture; a window is (batch, colours, side * side), 0 to 1.

    alpha: part of the network's usual width.
    """

    def __init__(self, classes: int = 2, colours: int = 3, side: int = 96, alpha: float = 0.25) -> None:
        super().__init__()
        width = int(32 * alpha)
        layers = [
            nn.Conv2d(colours, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        for channels, stride in _BLOCKS:
            layers.append(separable(width, int(channels * alpha), stride))
            width = int(channels * alpha)
        self.picture = nn.Unflatten(2, (side, side))
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.layers(self.picture(x)).mean(dim=(2, 3)))

"""The shoulder model: a small 1-D convolutional network over a smartwatch's accelerometer and gyroscope."""

import torch
from torch import Tensor, nn

# Of the training people's recordings, rounded: so that inputs are near unit size, in the graph.
OFFSET = (0.0, 0.4, -0.3, 0.0, 0.0, 0.0)  # ax, ay, az in g; wx, wy, wz in rad/s
SCALE = (1.3, 2.0, 2.0, 1.3, 0.5, 0.8)


class Shoulder(nn.Module):
    """Logits of seven exercises from two seconds of six channels.

    An arm moves slower than 12 Hz, so pairs of samples are averaged first: people differ less in what is
    left. The classes are told from each feature's mean over the window and from its strongest moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AvgPool1d(2),
            block(6, 16, 7),
            nn.MaxPool1d(2),
            block(16, 32, 5),
            nn.MaxPool1d(2),
            block(32, 36, 5),
        )
        self.classify = nn.Linear(72, 7)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.tensor(SCALE).reshape(1, 6, 1)
        offset = torch.tensor(OFFSET).reshape(1, 6, 1)
        features = self.layers((x - offset) * scale)
        return self.classify(torch.cat([features.mean(dim=2), features.amax(dim=2)], dim=1))


def block(channels_in: int, channels_out: int, kernel: int) -> nn.Module:
    """Convolution, GroupNorm (no running statistics that would have to be shared), ReLU."""
    return nn.Sequential(
        nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2),
        nn.GroupNorm(4, channels_out),
        nn.ReLU(),
    )


def model() -> nn.Module:
    return Shoulder()

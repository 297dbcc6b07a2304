"""A dilated causal network (TCN; Bai et al., arXiv 1803.01271)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Temporal(nn.Module):
    """Logits from windows (batch, channels, length): each level sees twice as far back, none ahead."""

    def __init__(
        self, channels: int, classes: int, width: int = 24, levels: int = 4, kernel: int = 3
    ) -> None:
        super().__init__()
        self.levels = nn.Sequential(
            *(Level(channels if level == 0 else width, width, kernel, 2**level) for level in range(levels))
        )
        self.classify = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.levels(x)[:, :, -1])


class Level(nn.Module):
    """A causal dilated convolution and what goes past it."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.before = (kernel - 1) * dilation
        self.convolve = nn.Conv1d(channels_in, channels_out, kernel, dilation=dilation)
        self.norm = nn.GroupNorm(4, channels_out)
        self.past = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        seen = functional.pad(x, (self.before, 0))
        return (self.norm(self.convolve(seen)).relu() + self.past(x)).relu()

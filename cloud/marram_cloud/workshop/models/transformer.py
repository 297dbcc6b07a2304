"""A transformer encoder over windows (Vaswani et al., arXiv 1706.03762), its norms first."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Transformer(nn.Module):
    """Logits from windows (batch, channels, length); ``patch`` samples in a row are one token."""

    def __init__(
        self, channels: int, length: int, classes: int, patch: int = 5, width: int = 32, heads: int = 4,
        layers: int = 2, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokens = nn.Conv1d(channels, width, patch, stride=patch)
        self.place = nn.Embedding(length // patch, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.classify = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(x).transpose(1, 2)
        seen = tokens + self.place(torch.arange(tokens.shape[1]))
        return self.classify(self.layers(seen).mean(dim=1))

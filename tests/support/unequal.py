"""A depthwise network on scikit-learn's digits whose channels differ widely in range, a hard case for int8.

Trained MobileNets come out so (Nagel et al., arXiv 1906.04721, figure 2); a network this small would not by
itself, so here BatchNorm's factors begin spread out, and the weights behind them undo it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import yaml
from marram_cloud.workshop.models.keyword_spotting import separable
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

CLASSES, SIDE, SEED = 10, 8, 1
_LEARNT = 1000  # the first digits, of other writers than the last ones
_DECADES = 2.5

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


def digits() -> tuple[Digits, Digits]:
    """(windows (n, 1, 64), 0 to 1, and labels (n,)): to learn from, and to judge by."""
    pixels, labels = load_digits(return_X_y=True)
    windows = (pixels.astype(np.float32) / 16)[:, None]
    labels = labels.astype(np.int64)
    return (windows[:_LEARNT], labels[:_LEARNT]), (windows[_LEARNT:], labels[_LEARNT:])


def network(width: int) -> nn.Module:
    """Logits of digits (batch, 1, 64), untrained."""
    wide = 2 * width
    module = nn.Sequential(
        nn.Unflatten(2, (SIDE, SIDE)), nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        nn.ReLU(), separable(width, width), separable(width, wide, 2), separable(wide, wide),
        separable(wide, wide), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, CLASSES),
    )  # fmt: skip
    _spread(module)
    return module


def _spread(module: nn.Module) -> None:
    """Each channel behind a BatchNorm times a factor, and the weights that read it by the same less: what the
    module computes stays the same."""
    layers = [one for one in module.modules() if isinstance(one, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for norm, reader in pairwise(layers):
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            factors = 10 ** (_DECADES * (torch.rand(norm.num_features, generator=generator) - 0.5))
            norm.weight.mul_(factors)
            depthwise = isinstance(reader, nn.Conv2d) and reader.groups > 1
            inputs = 0 if depthwise else 1
            shape = [-1 if axis == inputs else 1 for axis in range(reader.weight.dim())]
            reader.weight.div_(factors.reshape(shape))


def write(folder: Path, width: int) -> Path:
    """The workshop project's folder."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(
        f"from tests.support.unequal import network\n\n\ndef model():\n    return network({width})\n"
    )
    about = {
        "name": "unequal-digits", "task": "classify", "channels": [{"name": "pixels"}], "rate": 1,
        "length": SIDE * SIDE, "stride": SIDE * SIDE, "labels": [str(digit) for digit in range(CLASSES)],
        "seed": SEED,
    }  # fmt: skip
    (folder / "project.yaml").write_text(yaml.safe_dump(about))
    (windows, labels), (judged, truth) = digits()
    np.savez(folder / "training.npz", windows=windows, labels=labels)
    np.savez(folder / "evaluation.npz", windows=judged, labels=truth)
    np.savez(folder / "calibration.npz", windows=windows[::4])
    return folder

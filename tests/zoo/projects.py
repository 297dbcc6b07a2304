"""The zoo: projects of every architecture that must build, train and infer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

MODELS = "marram_cloud.workshop.models"
_QUIET = """\
    for part in made.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
"""
Windows = NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """One project. model, backbone: the expressions that make the modules; modules: what they need of
    ``MODELS``.

    shape: (channels, length). kind: of its windows, "signals" or "pictures". convolutional: its step should
    take at most 0.9 of PyTorch's time, of others as long.
    """

    name: str
    task: str
    shape: tuple[int, int]
    modules: tuple[str, ...]
    model: str
    classes: int = 0
    horizon: int = 0
    kind: str = "signals"
    convolutional: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    backbone: str = ""

    def write(self, folder: Path, dropout: bool = True) -> Path:
        """The project's folder. dropout: whether what the module has of it is left in."""
        folder.mkdir(parents=True, exist_ok=True)
        imports = "".join(f"from {MODELS}.{one} import *  # noqa: F403\n" for one in self.modules)
        (folder / "model.py").write_text(
            f"import torch\nfrom torch import nn\n{imports}\n\ndef model():\n    made = {self.model}\n"
            f"{'' if dropout else _QUIET}    return made\n"
            + (f"\n\ndef backbone():\n    return {self.backbone}\n" if self.backbone else "")
        )
        channels, length = self.shape
        about: dict[str, Any] = {
            "name": self.name,
            "task": self.task,
            "channels": [{"name": f"c{number}"} for number in range(channels)],
            "rate": 50,
            "length": length,
            "stride": length,
            "seed": 1,
            "training": {"learning_rate": 0.02, "epochs": 1, **self.training},
        }
        if self.classes:
            about["labels"] = [f"class-{number}" for number in range(self.classes)]
        if self.horizon:
            about["horizon"] = self.horizon
        if self.loss:
            about["loss"] = self.loss
        (folder / "project.yaml").write_text(yaml.safe_dump(about))
        windows, labels = self.windows(64, seed=0)
        arrays = {"windows": windows, **({"labels": labels} if self.classes else {})}
        np.savez(folder / "calibration.npz", **arrays)
        return folder

    def windows(self, count: int, seed: int) -> tuple[Windows, NDArray[np.int64]]:
        """Windows that can be told apart by their labels, float32 (count, channels, length)."""
        chance = np.random.default_rng(seed)
        labels = chance.integers(0, max(self.classes, 1), count)
        made = _KINDS[self.kind](chance, labels, *self.shape)
        return made.astype(np.float32), labels.astype(np.int64)


def _signals(
    chance: np.random.Generator, labels: NDArray[np.int64], channels: int, length: int
) -> NDArray[np.float64]:
    """Sines, of another frequency and of other channels for each label, in noise."""
    time = np.arange(length) / length
    phase = chance.uniform(0, 6.28, (len(labels), 1, 1))
    loud = 1 + np.cos(np.arange(channels)[None, :, None] + labels[:, None, None])
    frequency = 1 + labels[:, None, None]
    sines = loud * np.sin(6.28 * frequency * time[None, None] + phase)
    return sines + 0.1 * chance.normal(size=(len(labels), channels, length))


def _pictures(
    chance: np.random.Generator, labels: NDArray[np.int64], channels: int, length: int
) -> NDArray[np.float64]:
    """A bright disc, of another size and colour for each label, somewhere on a dark ground; 0 to 1."""
    side = int(np.sqrt(length))
    rows, columns = np.mgrid[:side, :side] / side
    places = chance.uniform(0.3, 0.7, (2, len(labels), 1, 1))
    away = np.hypot(rows - places[0], columns - places[1])
    disc = away < 0.1 + 0.02 * labels[:, None, None]
    colours = 0.5 + 0.5 * np.cos(np.arange(channels)[None] * 2.1 + labels[:, None])
    seen = disc[:, None] * colours[:, :, None, None] + 0.1 * chance.uniform(
        size=(len(labels), channels, side, side)
    )
    return np.clip(seen, 0, 1).reshape(len(labels), channels, length)


_KINDS: dict[str, Callable[..., NDArray[np.float64]]] = {"signals": _signals, "pictures": _pictures}

_ADAMW = {"type": "adamw"}
ZOO = (
    Entry(
        "keyword-spotting",
        "classify",
        (10, 49),
        ("keyword_spotting",),
        "KeywordSpotting()",
        12,
        convolutional=True,
    ),
    Entry(
        "visual-wake-words",
        "classify",
        (3, 96 * 96),
        ("visual_wake_words",),
        "VisualWakeWords()",
        2,
        kind="pictures",
        convolutional=True,
        training={"learning_rate": 0.005},
    ),
    Entry(
        "image-classification",
        "classify",
        (3, 32 * 32),
        ("image_classification",),
        "ImageClassification()",
        10,
        kind="pictures",
        convolutional=True,
        training={"learning_rate": 0.005},
    ),
    Entry("anomaly-detection", "reconstruct", (128, 5), ("anomaly_detection",), "AnomalyDetection()"),
    Entry("temporal", "classify", (6, 100), ("temporal",), "Temporal(6, 7)", 7, convolutional=True),
    Entry(
        "recurrent",
        "forecast",
        (3, 60),
        ("recurrent",),
        "Forecaster(3, 10)",
        horizon=10,
        loss={"type": "huber"},
        training={"optimiser": {"type": "adamw", "clip": 1.0}, "learning_rate": 0.005},
    ),
    Entry(
        "recurrent-lstm",
        "forecast",
        (3, 60),
        ("recurrent",),
        "Forecaster(3, 10, unit=nn.LSTM)",
        horizon=10,
        loss={"type": "huber"},
        training={"optimiser": {"type": "adamw", "clip": 1.0}, "learning_rate": 0.005},
    ),
    Entry(
        "transformer",
        "classify",
        (6, 100),
        ("transformer",),
        "Transformer(6, 100, 7)",
        7,
        training={"optimiser": _ADAMW, "learning_rate": 0.002},
    ),
    Entry(
        "convolutional-autoencoder",
        "reconstruct",
        (6, 100),
        ("convolutional_autoencoder",),
        "ConvolutionalAutoencoder(6)",
        convolutional=True,
    ),
    Entry("features", "classify", (6, 100), ("features",), "Features(6, 7)", 7),
    Entry(
        "adapted",
        "classify",
        (6, 100),
        ("features", "temporal", "lora"),
        "adapt(Temporal(6, 7), 2)",
        7,
        training={"trainable": ["*.parametrizations.weight.0.*", "classify.bias"]},
        convolutional=True,
    ),
    Entry(
        "norms-and-biases",
        "classify",
        (6, 100),
        ("temporal",),
        "Temporal(6, 7)",
        7,
        training={"trainable": ["*.bias", "*.norm.*"]},
        convolutional=True,
    ),
    Entry(
        "backbone",
        "classify",
        (3, 32 * 32),
        ("image_classification",),
        "nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10))",
        10,
        kind="pictures",
        backbone="nn.Sequential(*list(ImageClassification().children())[:-1], nn.AdaptiveAvgPool2d(1), "
        "nn.Flatten())",
    ),
)

"""How much int8 may lose where nobody said a budget: the worst layers stay in float until it is less.

Judged on windows with labels by what is right less often; on others by how far the outputs are off. As on a
device (``marram.learning.int8``), one window more or less decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from marram.programs.program import load
from numpy.typing import NDArray

from marram_cloud.compression.folding import fold
from marram_cloud.compression.operators import layers
from marram_cloud.compression.quantise import Ranges, quantise
from marram_cloud.compression.sensitivity import sensitivities

ACCURACY, SCORES, ERRORS = 0.01, 0.02, 0.25
MOST_FLOAT = 0.5  # part of the layers that may stay in float one by one
_SURE = 2.0  # standard deviations

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Kept:
    """layers: names of those that stay in float. loss: what int8 loses, in words. all: it is every layer."""

    layers: tuple[str, ...]
    loss: str
    all: bool = False

    def __str__(self) -> str:
        if self.all:
            return f"float32, for int8 would lose too much ({self.loss})"
        if self.layers:
            return f"int8 but for {len(self.layers)} of its layers; {self.loss}"
        return f"int8; {self.loss}"


def keep_float(
    predict: bytes,
    parameters: NDArray[np.float32],
    ranges: Ranges,
    windows: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    already: Sequence[str] = (),
) -> Kept:
    """The layers that must stay in float besides ``already``. windows: (n, channels, length), n above 0."""
    exact = load(predict, "onnx")(parameters=parameters, x=windows)

    def lost(kept: Sequence[str]) -> Loss:
        return compare(exact, load(quantise(predict, parameters, ranges, kept), "onnx")(x=windows), labels)

    first = last = lost(already)
    if not first.too_much:
        return Kept(tuple(already), first.words)
    worst = sorted(sensitivities(predict, parameters, ranges, windows), key=lambda one: -one.error)
    more = [one.layer.name for one in worst if one.layer.name not in already]
    for count in range(1, 1 + int(len(worst) * MOST_FLOAT)):
        kept = (*already, *more[:count])
        last = lost(kept)
        if not last.too_much:
            return Kept(kept, last.words)
    return Kept(tuple(one.name for one in layers(fold(predict, parameters))), first.words, all=True)


@dataclass(frozen=True)
class Loss:
    """words: what is lost."""

    too_much: bool
    words: str


def compare(exact: Outputs, coarse: Outputs, labels: NDArray[np.int64] | None) -> Loss:
    """float32 and int8 outputs of the same windows. labels: (n,), negative ones are left out."""
    if "scores" in exact and labels is not None and (labels >= 0).any():
        return _accuracy(exact["scores"], coarse["scores"], labels)
    if "scores" in exact:
        return _off(
            float(np.abs(exact["scores"] - coarse["scores"]).mean()), SCORES, "probabilities are off by"
        )
    size = max(float(np.abs(exact["score"]).mean()), 1e-12)
    return _off(float(np.abs(exact["score"] - coarse["score"]).mean()) / size, ERRORS, "scores are off by")


def _accuracy(exact: NDArray[Any], coarse: NDArray[Any], labels: NDArray[np.int64]) -> Loss:
    """Lost are windows that only float32 has right, less those that only int8 has right: a loss within twice
    the spread of that difference (McNemar, Psychometrika 12, 1947) may be chance."""
    known = labels >= 0
    right, int8 = (one.argmax(axis=1)[known] == labels[known] for one in (exact, coarse))
    worse, better = int((right & ~int8).sum()), int((~right & int8).sum())
    lost = (worse - better) / int(known.sum())
    sure = worse - better > max(1.0, _SURE * math.sqrt(worse + better))
    return Loss(
        lost > ACCURACY and sure, f"accuracy {right.mean():.3f} in float32, {int8.mean():.3f} in int8"
    )


def _off(difference: float, limit: float, words: str) -> Loss:
    return Loss(not difference <= limit, f"{words} {difference:.1%} in the mean")

"""How good a program is on windows that nobody trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054  # 95 %


class Quality(msgspec.Struct, frozen=True):
    """Of one program. windows: how many were judged.

    accuracy, low, high: part that is right, with the 95 % interval of Wilson (1927); confusion: counts, rows
    are the truth. loss: mean of ``score``, for models without labels. What does not apply is None.
    """

    windows: int
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    loss: float | None = None

    def worse_than(self, other: Quality) -> float:
        """By how much: points of accuracy (0.01 is one in a hundred), or the loss's relative growth."""
        if self.accuracy is not None and other.accuracy is not None:
            return other.accuracy - self.accuracy
        if self.loss is not None and other.loss is not None:
            return (self.loss - other.loss) / max(abs(other.loss), 1e-12)
        return 0.0


def judge(outputs: Mapping[str, NDArray[Any]], labels: NDArray[np.int64] | None, classes: int) -> Quality:
    """outputs: what the program gave for the windows. labels: (n,); negative ones are left out."""
    if classes and labels is not None:
        known = labels >= 0
        said, was = outputs["scores"].argmax(axis=1)[known], labels[known]
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (was, said), 1)
        right, total = int((said == was).sum()), len(was)
        low, high = wilson(right, total)
        confusion = tuple(tuple(int(one) for one in row) for row in counts)
        return Quality(total, right / max(total, 1), low, high, confusion)
    if not classes:
        return Quality(len(outputs["score"]), loss=float(outputs["score"].mean()))
    return Quality(len(outputs["scores"]))


def wilson(right: int, total: int) -> tuple[float, float]:
    """The score interval (Wilson, J. Am. Stat. Assoc. 22, 1927) of ``right`` of ``total``, at 95 %."""
    if total == 0:
        return 0.0, 1.0
    part, square = right / total, _Z * _Z / total
    middle = (part + square / 2) / (1 + square)
    half = _Z * math.sqrt(part * (1 - part) / total + square / (4 * total)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)

"""The seam of the engines: where the sums over deltas run.

An engine takes delta references (not arrays), so that payloads may lie in a database, in files or on an
object store, and are read where the sum runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DeltaReference:
    """One stored delta. weight: its samples. load: reads and decodes it, float32 (P,)."""

    device: str
    weight: int
    load: Callable[[], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """mean: float64 (P,). weight: the sum of the weights. count: how many deltas are in it."""

    mean: Vector
    weight: int
    count: int


class Engine(Protocol):
    """One place where sums run."""

    def weighted_mean(self, deltas: Iterable[DeltaReference], size: int) -> WeightedMean:
        """sum_k weight_k * delta_k / sum_k weight_k over all references, in their order."""
        ...

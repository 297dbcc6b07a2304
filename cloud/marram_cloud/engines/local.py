"""Sums in this process with numpy: one delta in memory at a time, accumulated in float64."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from marram_cloud.engines.engine import DeltaReference, WeightedMean


class LocalEngine:
    """See the module's docstring."""

    def weighted_mean(self, deltas: Iterable[DeltaReference], size: int) -> WeightedMean:
        """See ``Engine.weighted_mean``; the mean of nothing is zero."""
        total = np.zeros(size, np.float64)
        weight = count = 0
        for reference in deltas:
            total += np.float64(reference.weight) * reference.load()
            weight += reference.weight
            count += 1
        return WeightedMean(total / weight if weight else total, weight, count)

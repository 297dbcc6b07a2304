"""Ranges that many devices told, as one: what a release is quantised for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from marram_cloud.compression.quantise import Ranges

Floats = NDArray[np.float64]


def combine(told: Mapping[str, tuple[Floats, Floats]], names: Sequence[str], trim: float) -> Ranges:
    """By activation: the furthest that a device told, without those who went furthest.

    told: by device (minimum, maximum), each (A,) in the order of ``names``. trim: part of the devices whose
    word does not count at each end, at least one of them. So as many liars as are trimmed stretch no range
    beyond what an honest device told (the trimmed range of Yin et al., arXiv 1803.01498, taken at its rim:
    a mean would cut off what the other half sees).
    """
    low = np.sort(np.stack([pair[0] for pair in told.values()]), axis=0)
    high = np.sort(np.stack([pair[1] for pair in told.values()]), axis=0)
    dropped = min(max(1, math.ceil(trim * len(low))), len(low) - 1)
    return {
        name: (float(low[dropped, place]), float(high[-1 - dropped, place]))
        for place, name in enumerate(names)
    }

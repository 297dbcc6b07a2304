"""The seam of the aggregation rules: a pure function from one version's mean delta to the next version.

One rule a file; what has to see each device's own contribution (``forest``) is called by a seam of its own in
``marram_cloud.rounds.merging``. ``state`` is the rule's own memory (momentum ...), float64 (k * P,), kept in
the ledger.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class Strategy(Protocol):
    """One aggregation rule."""

    def step(
        self, parameters: Vector, mean_delta: Vector, state: Vector | None
    ) -> tuple[Vector, Vector | None]:
        """The next parameters and state, float64 (P,), from the sample-weighted mean delta."""
        ...

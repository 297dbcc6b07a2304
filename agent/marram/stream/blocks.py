"""The two blocks of data that move through a device: samples from sensors, windows for the model.

Both are blocks of many items, so that everything behind a sensor is vectorised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class Samples:
    """Consecutive readings of one sensor.

    time: float64 (n,), seconds since the Unix epoch, never decreasing.
    values: float32 (channels, n), in the order of the sensor's ``channels``; NaN where a value is missing.
    labels: str (n,) with "" where there is no label, or None when the sensor carries no labels.
    """

    time: NDArray[np.float64]
    values: NDArray[np.float32]
    labels: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return int(self.time.shape[0])


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows on the model's clock, oldest first.

    start, end: float64 (n,), seconds since the Unix epoch of the first and the last sample.
    values: float32 (n, channels, length), channels in the model's order; never NaN.
    labels: int16 (n,), index into the model's labels or ``UNLABELLED``.
    repaired: bool (n,), true where cleaning changed or filled a value of the window.
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    values: NDArray[np.float32]
    labels: NDArray[np.int16]
    repaired: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.start.shape[0])

    def __getitem__(self, part: slice) -> Windows:
        return Windows(
            self.start[part], self.end[part], self.values[part], self.labels[part], self.repaired[part]
        )

    @staticmethod
    def join(blocks: list[Windows]) -> Windows:
        """One block out of several of the same shape, in their order."""
        if len(blocks) == 1:
            return blocks[0]
        return Windows(
            np.concatenate([b.start for b in blocks]),
            np.concatenate([b.end for b in blocks]),
            np.concatenate([b.values for b in blocks]),
            np.concatenate([b.labels for b in blocks]),
            np.concatenate([b.repaired for b in blocks]),
        )

"""``clip(norm)``: a vector longer than ``norm`` (L2) is scaled down to it. No bytes; not undone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marram.wire.codec.stage import Stage, Vector


@dataclass(frozen=True, slots=True)
class Clip(Stage):
    """norm: the greatest L2 norm that passes unchanged."""

    norm: float

    def encode(self, values: Vector, seed: int) -> tuple[Vector, bytes]:
        length = float(np.linalg.norm(values.astype(np.float64)))
        if length <= self.norm:
            return values, b""
        return values * np.float32(self.norm / length), b""

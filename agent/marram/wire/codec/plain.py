"""``float32`` and ``float16``: the plain endings. Bytes: the values in IEEE 754, little-endian."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marram.wire.codec.stage import NOTHING, Stage, Vector


@dataclass(frozen=True, slots=True)
class Plain(Stage):
    """width: bytes a value, 4 or 2. Values beyond float16 become its greatest."""

    width: int

    ending = True

    def length(self, n: int) -> int:
        return 0

    def size(self, n: int) -> int:
        return self.width * n

    def encode(self, values: Vector, seed: int) -> tuple[Vector, bytes]:
        if self.width == 2:
            values = np.clip(values, -65504, 65504)
        return NOTHING, values.astype(f"<f{self.width}").tobytes()

    def decode(self, values: Vector, data: bytes, n: int, seed: int) -> Vector:
        return np.frombuffer(data, f"<f{self.width}").astype(np.float32)

"""Which layers lose most in int8, and which stay in float so that all together lose little enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from marram.programs.program import load
from numpy.typing import NDArray

from marram_cloud.compression.folding import fold
from marram_cloud.compression.operators import Layer, layers
from marram_cloud.compression.quantise import Ranges, quantise
from marram_cloud.compression.ranges import difference


@dataclass(frozen=True)
class Sensitivity:
    """error: relative difference of the outputs from fp32 when only this layer is int8."""

    layer: Layer
    error: float


def sensitivities(
    predict: bytes, parameters: NDArray[np.float32], ranges: Ranges, windows: NDArray[np.float32]
) -> list[Sensitivity]:
    """Layer by layer, in the order of the graph. windows: float32 (n, channels, length)."""
    found = layers(fold(predict, parameters))
    names = [one.name for one in found]
    exact = load(predict, "onnx")(parameters=parameters, x=windows)

    def alone(layer: Layer) -> float:
        others = [name for name in names if name != layer.name]
        int8 = load(quantise(predict, parameters, ranges, others), "onnx")
        return difference(exact, int8(x=windows))

    return [Sensitivity(layer, alone(layer)) for layer in found]

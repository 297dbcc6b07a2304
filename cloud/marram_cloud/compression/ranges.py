"""The ranges of activations, measured on windows by onnxruntime's calibrators; no torch."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from marram.programs.program import load
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.folding import fold
from marram_cloud.compression.quantise import Ranges, activations, quantise
from marram_cloud.compression.quiet import quiet

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

_BATCH = 32
_HELD_OUT = 4  # every fourth window judges the methods
_TINY = 1e-12
_CALIBRATIONS: dict[Method, tuple[CalibrationMethod, dict[str, object]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    # Not symmetric: uint8 has a zero point, and one side only behind a Relu.
    "percentile": (CalibrationMethod.Percentile, {"symmetric": False, "percentile": 99.9}),
    # More bins than levels, or there is nothing to choose from.
    "entropy": (
        CalibrationMethod.Entropy,
        {"symmetric": False, "num_bins": 256, "num_quantized_bins": 128},
    ),
}


def measure(
    predict: bytes, parameters: NDArray[np.float32], windows: NDArray[np.float32], method: Method = "minmax"
) -> Ranges:
    """The ranges that ``quantise`` needs. windows: float32 (n, channels, length).

    minmax holds all that was seen; percentile leaves the outermost thousandth on each side out; entropy
    takes the range whose int8 values are distributed most like the float ones (Migacz, "8-bit inference
    with TensorRT", GTC 2017). Raises CompressionError where values cannot be counted, such as the infinities
    of a mask.
    """
    names = activations(predict, parameters)
    if not names:
        return {}
    folded = fold(predict, parameters)
    wanted = {node.op_type for node in folded.graph.node if {*node.input, *node.output}.intersection(names)}
    kind, options = _CALIBRATIONS[method]
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "folded.onnx"
        onnx.save(folded, path)
        calibrator = create_calibrator(
            path, sorted(wanted), str(Path(folder) / "augmented.onnx"), kind, extra_options=options
        )
        # One block at a time, as a histogram needs all values of a block in memory at once; and the largest
        # first, as a histogram grows by bins of its first width.
        ordered = windows[np.argsort(-np.abs(windows).reshape(len(windows), -1).max(axis=1), kind="stable")]
        try:
            for start in range(0, len(windows), _BATCH):
                calibrator.collect_data(_Block(ordered[start : start + _BATCH]))
        except ValueError as error:
            raise CompressionError(f"the values of an activation cannot be counted: {error}") from error
        if method != "minmax":
            histograms = calibrator.collector.histogram_dict
            for name in histograms.keys() - set(names):
                del histograms[name]  # computed for nothing, and slowly
        limits = calibrator.compute_data()
    return {name: _pair(limits[name].range_value) for name in names}


def calibrate(predict: bytes, parameters: NDArray[np.float32], windows: NDArray[np.float32]) -> Ranges:
    """The ranges by the method whose int8 program is nearest to fp32 on windows that it did not see.

    windows: (n, channels, length). The best method then measures on all of them.
    """
    held = np.arange(len(windows)) % _HELD_OUT == 0
    if not held.any() or held.all():
        return measure(predict, parameters, windows)
    unseen = windows[held]
    exact = load(predict, "onnx")(parameters=parameters, x=unseen)

    def error(method: Method) -> float:
        try:
            ranges = measure(predict, parameters, windows[~held], method)
        except CompressionError:
            return math.inf
        return difference(exact, load(quantise(predict, parameters, ranges), "onnx")(x=unseen))

    return measure(predict, parameters, windows, min(METHODS, key=error))


def difference(exact: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> float:
    """Mean difference of the outputs as a part of their mean size; of several outputs the largest."""
    parts = []
    for name, value in exact.items():
        size = max(float(np.abs(value).mean()), _TINY)
        parts.append(float(np.abs(value.astype(np.float64) - other[name]).mean()) / size)
    return max(parts)


def _pair(limits: tuple[NDArray[np.float32], NDArray[np.float32]]) -> tuple[float, float]:
    low, high = (float(np.asarray(one).reshape(())) for one in limits)
    return low, high


class _Block(CalibrationDataReader):  # type: ignore[misc]
    """Hands out one batch of windows."""

    def __init__(self, windows: NDArray[np.float32]) -> None:
        self._blocks: Iterator[NDArray[np.float32]] = iter([windows])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        block = next(self._blocks, None)
        return None if block is None else {"x": block}

"""int8 from fp32: ``predict.onnx`` with its parameters put in, folded, and quantised.

Static, per-channel, QDQ, by onnxruntime's own quantiser with calibration windows; no torch. Only the heavy
operators are quantised: the normalisation in front and the softmax behind stay in float.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import marram  # noqa: F401 - switches onnxruntime's telemetry off before its import
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
from onnxruntime.quantization import quantize_static as quantize

_OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "MaxPool"]
_BATCH = 32


def infer_from_predict(
    predict: bytes, parameters: NDArray[np.float32], calibration: NDArray[np.float32]
) -> bytes:
    """The int8 program. predict: ONNX bytes. parameters: float32 (P,). calibration: (n, channels, length)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folded = _fold(_with_parameters(predict, parameters), folder)
        target = folder / "int8.onnx"
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # the quantiser advises on the root logger
        try:
            quantize(
                folded, target, _Windows(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=_OPERATORS, activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
            )  # fmt: skip
        finally:
            root.setLevel(level)
        model = onnx.load(target)
    model.producer_name, model.producer_version, model.doc_string = "marram", "", ""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _with_parameters(predict: bytes, parameters: NDArray[np.float32]) -> onnx.ModelProto:
    model = onnx.load_from_string(predict)
    kept = [value for value in model.graph.input if value.name != "parameters"]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.append(onnx.numpy_helper.from_array(parameters, "parameters"))
    return model


def _fold(model: onnx.ModelProto, folder: Path) -> Path:
    """Let onnxruntime compute all that depends on no input; the weights come out as initialisers."""
    target = folder / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return target


class _Windows(CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibration windows out in batches."""

    def __init__(self, windows: NDArray[np.float32]) -> None:
        self._batches: Iterator[NDArray[np.float32]] = (
            windows[start : start + _BATCH] for start in range(0, len(windows), _BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch}

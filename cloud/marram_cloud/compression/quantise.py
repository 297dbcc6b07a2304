"""int8 from fp32: ``predict.onnx`` with its parameters put in, folded, and quantised; no torch.

Static, QDQ, by onnxruntime's own quantiser: weights int8 per channel and symmetric, activations uint8 per
tensor. Not int8, because onnxruntime turns int8 activations to uint8 on x86 where it can and then finds no
kernel for layers between the two (docs/decisions/unsigned-activations.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import marram  # noqa: F401 - switches onnxruntime's telemetry off before its import
import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.folding import fold
from marram_cloud.compression.operators import CLIPPING, GIVEN_IN_FLOAT, QUANTISABLE, chosen
from marram_cloud.compression.quiet import quiet

Ranges = Mapping[str, tuple[float, float]]
"""Least and largest value of each quantised activation, by the tensor's name in ``predict.onnx``."""


def quantise(
    predict: bytes, parameters: NDArray[np.float32], ranges: Ranges, keep_float: Iterable[str] = ()
) -> bytes:
    """The int8 program. predict: ONNX bytes. parameters: float32 (P,). keep_float: names of layers.

    ranges may hold more tensors than are asked for. The same input gives the same bytes. Raises
    CompressionError when a range is missing or not finite.
    """
    folded = fold(predict, parameters)
    names = chosen(folded, frozenset(keep_float))
    for name in _activations(folded, names):
        if name not in ranges:
            raise CompressionError(
                f"the range of the activation {name!r} is missing: measure the ranges with this model"
            )
        if not all(np.isfinite(ranges[name])):
            raise CompressionError(
                f"the activation {name!r} has the range {ranges[name]}: the model gives NaN or infinity for "
                "the windows on which it was measured"
            )
    model = _quantised(folded, names, ranges)
    model.producer_name, model.producer_version, model.doc_string = "marram", "", ""
    del model.graph.value_info[:]
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def activations(
    predict: bytes, parameters: NDArray[np.float32], keep_float: Iterable[str] = ()
) -> tuple[str, ...]:
    """Names of the tensors of ``predict.onnx`` whose ranges ``quantise`` needs, in the graph's order."""
    folded = fold(predict, parameters)
    return _activations(folded, chosen(folded, frozenset(keep_float)))


def _activations(folded: onnx.ModelProto, names: list[str]) -> tuple[str, ...]:
    """As onnxruntime's quantiser itself decides, tried out with ranges that mean nothing; of every layer also
    what it gives, which the form for LiteRT needs."""
    tensors = {name for node in folded.graph.node for name in (*node.input, *node.output)}
    there = {name for node in folded.graph.node if node.op_type == "QuantizeLinear" for name in node.input}
    tried = _quantised(folded, names, dict.fromkeys(tensors, (0.0, 1.0)), given_in_float=[])
    constants = {one.name for one in tried.graph.initializer}
    return tuple(
        # Behind an output of the program its int8 has the name, so the tensor got another one.
        node.input[0].removesuffix("_QuantizeLinear_Input")
        for node in tried.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants | there
    )


def _quantised(
    folded: onnx.ModelProto, names: list[str], ranges: Ranges, given_in_float: list[str] = GIVEN_IN_FLOAT
) -> onnx.ModelProto:
    if not names:  # the quantiser takes an empty list for "all"
        return folded
    # The quantiser asks for a range also in front of a Relu that it is about to melt into the layer.
    melted = {
        node.input[0]: ranges[node.output[0]]
        for node in folded.graph.node
        if node.op_type in CLIPPING and node.output[0] in ranges
    }
    limits = TensorsData(
        CalibrationMethod.MinMax,
        {
            name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
            for name, (low, high) in {**melted, **ranges}.items()
        },
    )
    with quiet():
        quantiser = QDQQuantizer(
            onnx.shape_inference.infer_shapes(folded), per_channel=True, reduce_range=False,
            weight_qType=QuantType.QInt8, activation_qType=QuantType.QUInt8, tensors_range=limits,
            nodes_to_quantize=names, nodes_to_exclude=[], op_types_to_quantize=QUANTISABLE,
            extra_options={"OpTypesToExcludeOutputQuantization": given_in_float},
        )  # fmt: skip
        quantiser.quantize_model()
    # Some of its nodes stand before what they read; onnxruntime takes that, the standard does not.
    quantiser.model.topological_sort()
    model: onnx.ModelProto = quantiser.model.model
    return model

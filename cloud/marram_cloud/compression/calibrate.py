"""``calibrate.onnx``: with it a device turns parameters of its own into the int8 arrays of ``infer.onnx``.

The program is ``(parameters, x) -> every weight and bias that depends on parameters, minimum, maximum``: the
tensors by the names that they have in the folded graph, and the range of each quantised activation over the
batch. It is made of ``predict.onnx`` by surgery alone, and believed only when the int8 arrays that follow
from it are those that ``infer.onnx`` holds, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from marram.bundle.int8 import Int8Bias, Int8Layout, Int8Weight, Stored, int8_arrays
from marram.errors import BundleError
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.graph import reads
from marram_cloud.compression.quantise import Ranges, activations
from marram_cloud.compression.skeleton import Skeleton, skeleton

MINIMUM, MAXIMUM = "minimum", "maximum"
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class CalibrateError(CompressionError):
    """This int8 program cannot be made again from other parameters by a device."""


@dataclass(frozen=True)
class Calibrate:
    """content: the bytes of ``calibrate.onnx``. layout: for the manifest."""

    content: bytes
    layout: Int8Layout


def calibrate_program(
    predict: bytes, infer: bytes, parameters: NDArray[np.float32], ranges: Ranges
) -> Calibrate:
    """For an ``infer.onnx`` that was quantised from ``predict.onnx`` with these parameters and ranges.

    Raises CalibrateError where a device could not do the same.
    """
    halves = skeleton(predict)
    quantised = onnx.load_from_string(infer)
    layout = _layout(halves, quantised, activations(predict, parameters))
    _check(layout, halves, quantised, parameters, ranges)
    return Calibrate(_program(halves, layout), layout)


# ---- where things stand


def _layout(halves: Skeleton, infer: ModelProto, measured: Sequence[str]) -> Int8Layout:
    stored = {one.name: one for one in infer.graph.initializer}
    makers = {name: node for node in infer.graph.node for name in node.output}
    constant = {
        node.input[0].removesuffix("_quantized"): node
        for node in infer.graph.node
        if node.op_type == _DEQUANTIZE and node.input[0] in stored
    }
    biases = [
        _bias(tensor, node, infer, makers)
        for tensor, node in constant.items()
        if _origin(halves, tensor) is not None and stored[node.input[0]].data_type == TensorProto.INT32
    ]
    # The scale of a bias hangs on its weight's, so a weight that is not learnt is told too.
    wanted = {one.weight for one in biases}
    weights = [
        _weight(tensor, node, stored)
        for tensor, node in constant.items()
        if stored[node.input[0]].data_type != TensorProto.INT32
        and (_origin(halves, tensor) is not None or (tensor in wanted and tensor in _constants(halves)))
    ]
    floats = tuple(sorted(name for name in halves.names if name in stored))
    quantised_before = {node.output[0] for node in halves.data.graph.node if node.op_type == _QUANTIZE}
    scales = dict.fromkeys(
        node.input[1]
        for node in infer.graph.node
        if node.op_type == _QUANTIZE and node.output[0] not in quantised_before
    )
    own = tuple(name.removesuffix("_scale") for name in scales)
    zeros = {stored[f"{name}_zero_point"].data_type for name in own if f"{name}_zero_point" in stored}
    if zeros not in ({TensorProto.UINT8}, {TensorProto.INT8}):
        raise CalibrateError("infer.onnx: its activations are not stored in one type of 8 bits")
    kind: Stored = "uint8" if TensorProto.UINT8 in zeros else "int8"
    order = {name: place for place, node in enumerate(halves.data.graph.node) for name in node.input}
    biases.sort(key=lambda one: order.get(str(_origin(halves, one.tensor)), 0))
    return Int8Layout(
        tuple(dict.fromkeys([*own, *measured])),
        own,
        kind,
        tuple(sorted(weights, key=lambda one: one.tensor)),
        tuple(biases),
        floats,
    )


def _weight(tensor: str, dequantize: NodeProto, stored: dict[str, TensorProto]) -> Int8Weight:
    values, scale = (stored[name] for name in dequantize.input[:2])
    axis = int(helper.get_node_attr_value(dequantize, "axis")) if scale.dims else None
    return Int8Weight(tensor, axis, values.data_type == TensorProto.INT8)


def _constants(halves: Skeleton) -> dict[str, TensorProto]:
    """What the graph holds that depends on nothing, by name."""
    return {one.name: one for one in halves.data.graph.initializer}


def _origin(halves: Skeleton, name: str) -> str | None:
    """The tensor of the skeleton that ``name`` is, or is a copy of: a bias of two layers gets a copy for
    each, with a number behind its name."""
    if name in halves.names:
        return name
    if name in _constants(halves):
        return None
    plain = name.rstrip("0123456789")
    shorter = [one for one in halves.names if one.rstrip("0123456789") == plain and name.startswith(one)]
    return max(shorter, key=len, default=None)


def _bias(tensor: str, dequantize: NodeProto, infer: ModelProto, makers: dict[str, NodeProto]) -> Int8Bias:
    users = [node for node in infer.graph.node if dequantize.output[0] in node.input]
    if len(users) != 1 or users[0].op_type not in ("Conv", "Gemm", "ConvTranspose"):
        raise CalibrateError(f"{tensor}: an int32 bias of something else than one convolution or Gemm")
    activation, weight = (makers.get(users[0].input[place]) for place in (0, 1))
    if activation is None or weight is None or {activation.op_type, weight.op_type} != {_DEQUANTIZE}:
        raise CalibrateError(f"{tensor}: an int32 bias beside a float activation or weight")
    if any(one.name == "beta" and one.f != 1.0 for one in users[0].attribute):
        raise CalibrateError(f"{tensor}: is scaled by its Gemm")
    quantize = makers.get(activation.input[0])
    if quantize is None or quantize.op_type != _QUANTIZE:
        raise CalibrateError(f"{tensor}: an int32 bias of a layer whose input is a constant")
    return Int8Bias(
        tensor,
        quantize.input[0].removesuffix("_QuantizeLinear_Input"),
        activation.input[1].removesuffix("_scale"),
        weight.input[0].removesuffix("_quantized"),
    )


def _check(
    layout: Int8Layout,
    halves: Skeleton,
    infer: ModelProto,
    parameters: NDArray[np.float32],
    ranges: Ranges,
) -> None:
    made = {name for node in halves.data.graph.node for name in node.output} | {"x"}
    for name in layout.activations:
        if name not in made or name not in ranges:
            raise CalibrateError(f"{name}: is quantised, but is no activation of the folded graph")
    known = {*layout.activations}, {one.tensor for one in layout.weights}
    for bias in layout.biases:
        if not known[0].issuperset([bias.input, bias.activation]) or bias.weight not in known[1]:
            raise CalibrateError(f"{bias.tensor}: its scale hangs on a constant of the graph")
    values = halves.values(parameters)
    constants = _constants(halves)
    tensors = {
        name: numpy_helper.to_array(constants[name])
        if name in constants
        else values[str(_origin(halves, name))]
        for name in layout.tensors
    }
    limits = np.array([ranges[name] for name in layout.activations], np.float32).reshape(-1, 2)
    expected = {one.name: one for one in infer.graph.initializer}
    try:
        arrays = int8_arrays(layout, tensors, limits[:, 0], limits[:, 1])
    except BundleError as error:
        raise CalibrateError(str(error)) from error
    for name, array in arrays.items():
        stored = expected.get(name)
        held = numpy_helper.to_array(stored) if stored is not None else None
        if held is None or held.dtype != array.dtype or not np.array_equal(held, array):
            raise CalibrateError(
                f"{name}: onnxruntime's quantiser made something else of it than a device would"
            )
    made_of_parameters = {*layout.tensors}
    for name in halves.names:
        used = any(name in reads(node) for node in halves.data.graph.node)
        if used and not any(_origin(halves, one) == name for one in made_of_parameters):
            raise CalibrateError(f"{name}: depends on parameters, but cannot be found in infer.onnx")


# ---- the program


def _program(halves: Skeleton, layout: Int8Layout) -> bytes:
    data, tensors = halves.data.graph, halves.tensors.graph
    copies = [
        helper.make_node("Identity", [str(_origin(halves, name))], [name])
        for name in layout.tensors
        if name not in halves.names and name not in _constants(halves)
    ]
    ends = [
        helper.make_node("Constant", [], ["calibrate_one"], value=numpy_helper.from_array(np.array([1]))),
        *_extremes(layout, "ReduceMin", MINIMUM),
        *_extremes(layout, "ReduceMax", MAXIMUM),
    ]
    nodes = _needed([*tensors.node, *copies, *data.node, *ends], {MINIMUM, MAXIMUM, *layout.tensors})
    used = {name for node in nodes for name in reads(node)} | set(layout.tensors)
    constants = {one.name: one for one in (*tensors.initializer, *data.initializer) if one.name in used}
    shapes = {value.name: value for value in tensors.output}
    outputs = [
        helper.make_tensor_value_info(name, constants[name].data_type, constants[name].dims)
        if name in constants
        else _renamed(shapes[str(_origin(halves, name))], name)
        for name in layout.tensors
    ]
    count = len(layout.activations)
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "calibrate",
            [*tensors.input, *(value for value in data.input if value.name not in shapes)],
            [*outputs, *(_vector(name, count) for name in (MINIMUM, MAXIMUM))],
            list(constants.values()),
        ),
        opset_imports=halves.data.opset_import,
        ir_version=halves.data.ir_version,
        producer_name="marram",
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _extremes(layout: Int8Layout, reduction: str, output: str) -> list[NodeProto]:
    nodes, parts = [], []
    for place, name in enumerate(layout.activations):
        parts.append(f"{output}_{place}_row")
        nodes.append(helper.make_node(reduction, [name], [f"{output}_{place}"], keepdims=0))
        nodes.append(helper.make_node("Reshape", [f"{output}_{place}", "calibrate_one"], [parts[-1]]))
    return [*nodes, helper.make_node("Concat", parts, [output], axis=0)]


def _needed(nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    kept = []
    for node in reversed(nodes):
        if outputs.intersection(node.output):
            outputs.update(reads(node))
            kept.append(node)
    return kept[::-1]


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    made = onnx.ValueInfoProto()
    made.CopyFrom(value)
    made.name = name
    return made


def _vector(name: str, size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [size])

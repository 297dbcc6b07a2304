"""What converters calculate from the parameters themselves: a normalisation folded into what is around it."""

from __future__ import annotations

import numpy as np
import onnx
from marram.programs.program import load
from numpy.typing import NDArray
from onnx import TensorProto, helper

Floats = NDArray[np.float32]

_EPSILON = 1e-5  # ONNX's default


def derived(predict: bytes, parameters: Floats) -> dict[str, Floats]:
    """By name, for each BatchNormalization of predict.onnx: its scale and shift, alone and in the convolution
    before it (Jacob et al., arXiv 1712.05877, section 3.2). parameters: float32 (P,).
    """
    graph = onnx.load_from_string(predict).graph
    makers = {output: node for node in graph.node for output in node.output}
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    wanted = {name for norm in norms for name in norm.input[1:]}
    convolutions = [makers.get(norm.input[0]) for norm in norms]
    wanted |= {name for node in convolutions if node and node.op_type == "Conv" for name in node.input[1:]}
    values = _values(predict, parameters, wanted)
    made: dict[str, Floats] = {}
    for number, (norm, before) in enumerate(zip(norms, convolutions, strict=True)):
        scale, shift, mean, variance = (values[name] for name in norm.input[1:])
        epsilon = np.float32(next((one.f for one in norm.attribute if one.name == "epsilon"), _EPSILON))
        factor = scale / np.sqrt(variance + epsilon)
        made[f"{number}.scale"], made[f"{number}.shift"] = factor, shift - mean * factor
        if before is None or before.op_type != "Conv":
            continue
        weight, *bias = (values[name] for name in before.input[1:])
        made[f"{number}.weight"] = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
        if bias:
            made[f"{number}.bias"] = (bias[0] - mean) * factor + shift
    return made


def _values(predict: bytes, parameters: Floats, names: set[str]) -> dict[str, Floats]:
    """Values of predict.onnx that depend on the parameters only."""
    if not names:
        return {}
    model = onnx.load_from_string(predict)
    graph = model.graph
    needed, kept = set(names), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    given = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    made = names - given.keys()
    graph.ClearField("node")
    graph.node.extend(reversed(kept))
    graph.ClearField("output")
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(made))
    inputs = [one for one in graph.input if one.name != "x"]
    graph.ClearField("input")
    graph.input.extend(inputs)
    found = load(model.SerializeToString(), "onnx")(parameters=parameters) if made else {}
    return {name: np.asarray(given.get(name, found.get(name)), np.float32) for name in names}

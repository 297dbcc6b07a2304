"""BatchNorm folded into the layer before it, as part of the graph: it holds for all parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

Array = NDArray[np.generic]


def fold_batch_norms(model: ModelProto, moving: set[str]) -> None:
    """Conv or Gemm followed by BatchNormalization becomes one (Jacob et al., arXiv 1712.05877, section 3.2).

    moving: tensors that depend on an input; what is folded must not.
    """
    graph = model.graph
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    layers = {node.output[0]: node for node in graph.node if node.op_type == "Conv" or _plain_gemm(node)}
    folded: list[NodeProto] = []
    for node in graph.node:
        before = layers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if (
            before is None
            or uses[before.output[0]] != 1
            or len(node.output) != 1
            or moving.intersection([*node.input[1:], *before.input[1:]])
        ):
            folded.append(node)
            continue
        folded.remove(before)
        folded += _one_layer(before, node)
    del graph.node[:]
    graph.node.extend(folded)


def _plain_gemm(node: NodeProto) -> bool:
    options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    scaled = any(options.get(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    return node.op_type == "Gemm" and not scaled and not options.get("transA")


def _one_layer(layer: NodeProto, norm: NodeProto) -> list[NodeProto]:
    x, weight, *bias = layer.input
    _, gamma, beta, mean, variance = norm.input
    name = norm.output[0]
    epsilon = next((one.f for one in norm.attribute if one.name == "epsilon"), 1e-5)

    def made(part: str) -> str:
        return f"{name}_{part}"

    nodes = [
        _constant(made("epsilon"), np.array(epsilon, np.float32)),
        helper.make_node("Add", [variance, made("epsilon")], [made("shifted")]),
        helper.make_node("Sqrt", [made("shifted")], [made("deviation")]),
        helper.make_node("Div", [gamma, made("deviation")], [made("factor")]),
    ]
    turned = any(one.name == "transB" and one.i for one in layer.attribute)
    if layer.op_type == "Gemm" and not turned:  # (inputs, C)
        nodes.append(helper.make_node("Mul", [weight, made("factor")], [made("weight")]))
    else:
        nodes += _along_the_first(weight, made)
    if bias and bias[0]:
        nodes.append(helper.make_node("Sub", [bias[0], mean], [made("centred")]))
    else:
        nodes.append(helper.make_node("Neg", [mean], [made("centred")]))
    nodes += [
        helper.make_node("Mul", [made("centred"), made("factor")], [made("scaled")]),
        helper.make_node("Add", [made("scaled"), beta], [made("bias")]),
    ]
    one = NodeProto()
    one.CopyFrom(layer)
    del one.input[:]
    del one.output[:]
    one.input.extend([x, made("weight"), made("bias")])
    one.output.append(name)
    return [*nodes, one]


def _along_the_first(weight: str, made: Callable[[str], str]) -> list[NodeProto]:
    """``weight`` of it: times ``factor``, (C,) as (C, 1, 1, ...), of whatever rank the weight has."""
    return [
        helper.make_node("Shape", [weight], [made("shape")]),
        helper.make_node("Shape", [made("shape")], [made("rank")]),
        helper.make_node(
            "ConstantOfShape",
            [made("rank")],
            [made("ones")],
            value=numpy_helper.from_array(np.array([1], np.int64)),
        ),
        _constant(made("first"), np.array([0], np.int64)),
        _constant(made("minus_one"), np.array([-1], np.int64)),
        helper.make_node(
            "ScatterElements", [made("ones"), made("first"), made("minus_one")], [made("column")], axis=0
        ),
        helper.make_node("Reshape", [made("factor"), made("column")], [made("factors")]),
        helper.make_node("Mul", [weight, made("factors")], [made("weight")]),
    ]


def _constant(name: str, value: Array) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value), name))

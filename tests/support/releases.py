"""Releases of the shoulder model as they would come: good ones, and bundles that are bad in one way."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
import onnx
from marram.bundle.file import encode
from onnx import TensorProto, helper, numpy_helper

from tests.support.windows import SHOULDER, bundle

MODEL = "shoulder"


@cache
def released(version: str = "1", **members: bytes) -> bytes:
    """The shoulder bundle under another version; members replace files ("infer.onnx" as infer)."""
    source = bundle(SHOULDER)
    files = {**source.members, **{f"{name}.onnx": content for name, content in members.items()}}
    return encode(msgspec.structs.replace(source.manifest, version=version), files)


@cache
def another_family() -> bytes:
    source = bundle(SHOULDER)
    return encode(msgspec.structs.replace(source.manifest, version="1", rate=25.0), dict(source.members))


def infer(node: str) -> bytes:
    """An infer.onnx with the right tensors: scores (batch, 7) that are all the float that ``node`` gives.

    node: "nan", "fine", or "hungry" (as fine, but it needs 4 GiB on the way).
    """
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6, 100])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 7])
    value = np.float32(np.nan if node == "nan" else 0)
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sums"], keepdims=0),
        helper.make_node("Unsqueeze", ["sums", "one"], ["column"]),
        helper.make_node("Mul", ["column", "seven"], ["row"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.full((1, 7), value, np.float32), "seven"),
    ]
    last = "row"
    if node == "hungry":
        constants.append(numpy_helper.from_array(np.array([1 << 30], np.int64), "many"))
        # The length depends on the input, so that no optimiser folds it away.
        nodes += [
            helper.make_node("Shape", ["sums"], ["count"]),
            helper.make_node("Mul", ["count", "many"], ["length"]),
            helper.make_node("ConstantOfShape", ["length"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["row", "nothing"], ["fed"]),
        ]
        last = "fed"
    nodes.append(helper.make_node("Identity", [last], ["scores"]))
    graph = helper.make_graph(nodes, "infer", [x], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def spoilt(how: str, threshold: float = 0.0) -> bytes:
    """The real infer.onnx with something done to it.

    permuted: other classes. half: other classes where a window's mean is above ``threshold``. slow: much more
    to calculate. large: 160 MB more memory. trap: fails on windows whose first value is above 1e6.
    """
    model = onnx.load_from_string(bundle(SHOULDER).members["infer.onnx"])
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["scores_before" if name == "scores" else name for name in node.output]
    for node in graph.node:
        node.input[:] = ["scores_before" if name == "scores" else name for name in node.input]
    constants, nodes = _SPOILT[how](threshold)
    graph.initializer.extend(constants)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()


_Made = tuple[list[TensorProto], list[onnx.NodeProto]]


def _permuted(_: float, output: str = "scores") -> _Made:
    order = numpy_helper.from_array(np.array([1, 2, 3, 4, 5, 6, 0], np.int64), "order")
    return [order], [helper.make_node("Gather", ["scores_before", "order"], [output], axis=1)]


def _half(threshold: float) -> _Made:
    constants, nodes = _permuted(threshold, "other")
    constants.append(numpy_helper.from_array(np.float32(threshold), "threshold"))
    constants.append(numpy_helper.from_array(np.array([1, 2], np.int64), "all_axes"))
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "one_axis"))
    nodes += [
        helper.make_node("ReduceSum", ["x", "all_axes"], ["sum_of_window"], keepdims=0),
        helper.make_node("Greater", ["sum_of_window", "threshold"], ["is_other"]),
        helper.make_node("Unsqueeze", ["is_other", "one_axis"], ["other_column"]),
        helper.make_node("Where", ["other_column", "other", "scores_before"], ["scores"]),
    ]
    return constants, nodes


def _added(constants: list[TensorProto], nodes: list[onnx.NodeProto], value: str) -> _Made:
    """Adds nothing of ``value``, which has to be calculated for that."""
    constants.append(numpy_helper.from_array(np.float32(0), "nothing"))
    nodes += [
        helper.make_node("Mul", [value, "nothing"], ["no_part"]),
        helper.make_node("Add", ["scores_before", "no_part"], ["scores"]),
    ]
    return constants, nodes


def _slow(_: float) -> _Made:
    square = np.full((320, 320), 1e-3, np.float32)
    constants = [
        numpy_helper.from_array(square, "square"),
        numpy_helper.from_array(np.array([0, 1, 2], np.int64), "every_axis"),
    ]
    nodes = [
        helper.make_node("ReduceSum", ["x", "every_axis"], ["seed"], keepdims=0),
        helper.make_node("Add", ["square", "seed"], ["work0"]),
        *(helper.make_node("MatMul", [f"work{n}", "square"], [f"work{n + 1}"]) for n in range(4)),
        helper.make_node("ReduceMin", ["work4"], ["least"], keepdims=0),
        helper.make_node("Clip", ["least", "nothing", "nothing"], ["clipped"]),
    ]
    return _added(constants, nodes, "clipped")


def _large(_: float) -> _Made:
    constants = [
        numpy_helper.from_array(np.array([40_000_000], np.int64), "many"),
        numpy_helper.from_array(np.array([0], np.int64), "zeroth"),
    ]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zeroth"], ["batch"]),
        helper.make_node("Mul", ["batch", "many"], ["length"]),
        helper.make_node("ConstantOfShape", ["length"], ["huge"]),
        helper.make_node("ReduceSum", ["huge", "zeroth"], ["sum_of_huge"], keepdims=0),
    ]
    return _added(constants, nodes, "sum_of_huge")


def _trap(_: float) -> _Made:
    constants = [
        numpy_helper.from_array(np.float32(1e6), "much"),
        numpy_helper.from_array(np.int64(1000), "beyond"),
        numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "short"),
    ]
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "much"], ["is_trap"]),
        helper.make_node("Cast", ["is_trap"], ["as_number"], to=TensorProto.INT64),
        helper.make_node("Mul", ["as_number", "beyond"], ["place"]),
        helper.make_node("Gather", ["short", "place"], ["picked"]),
    ]
    return _added(constants, nodes, "picked")


_SPOILT = {"permuted": _permuted, "half": _half, "slow": _slow, "large": _large, "trap": _trap}

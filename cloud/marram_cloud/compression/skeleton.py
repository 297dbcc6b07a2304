"""Parameters put into ``predict.onnx``: what depends on them alone becomes an initialiser of its own name.

The graph that comes out is the same for all parameters: onnxruntime optimises it while the tensors made of
parameters are still inputs, so no fusion can hang on their values (it would merge two biases that are equal
before the first training, and give its own names to what it fuses). A device needs this to replace the
tensors one by one. BatchNorm is folded into the convolution before it, as part of the graph.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import marram  # noqa: F401 - switches onnxruntime's telemetry off before its import
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

Array = NDArray[np.generic]
_PARAMETERS = "parameters"
_CPU = ("CPUExecutionProvider",)


@dataclass(frozen=True)
class Skeleton:
    """``predict.onnx`` in two halves.

    tensors: the program (parameters) -> every tensor that depends on parameters alone and is used by the
    other half. data: the optimised other half, whose inputs are ``x`` and those tensors.
    """

    tensors: ModelProto
    data: ModelProto

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors between the halves."""
        return tuple(value.name for value in self.tensors.graph.output)

    def values(self, parameters: NDArray[np.float32]) -> dict[str, Array]:
        """The tensors for these parameters, float32 (P,)."""
        if not self.names:
            return {}
        found = _session(self.tensors).run(list(self.names), {_PARAMETERS: parameters})
        return dict(zip(self.names, found, strict=True))

    def with_parameters(self, parameters: NDArray[np.float32]) -> ModelProto:
        """``(x) -> outputs`` with the tensors as initialisers."""
        model = ModelProto()
        model.CopyFrom(self.data)
        values = self.values(parameters)
        kept = [value for value in model.graph.input if value.name not in values]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        used = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), name) for name, value in values.items() if name in used
        )
        return model


def skeleton(predict: bytes) -> Skeleton:
    """Cut ``predict.onnx`` in two. Raises onnxruntime's errors for a graph that it cannot load."""
    model = onnx.load_from_string(predict)
    _fold_batch_norms(model)
    depends = _depending(model, [value.name for value in model.graph.input if value.name != _PARAMETERS])
    learnt = _depending(model, [_PARAMETERS])
    static = [node for node in model.graph.node if not depends.intersection(node.output)]
    moving = [node for node in model.graph.node if depends.intersection(node.output)]
    wanted = {name for node in moving for name in node.input}
    wanted |= {value.name for value in model.graph.output}
    made = [name for node in static for name in node.output if name in wanted]
    # The vector itself may be used whole.
    frontier = [*made, *([_PARAMETERS] if _PARAMETERS in wanted else [])]
    tensors = _program(model, static, frontier)
    zeros = np.zeros(_size(model), np.float32)
    found = _session(tensors).run(frontier, {_PARAMETERS: zeros}) if frontier else []
    values = dict(zip(frontier, found, strict=True))
    data = ModelProto()
    data.CopyFrom(model)
    del data.graph.node[:]
    data.graph.node.extend(moving)
    kept = [value for value in data.graph.input if value.name != _PARAMETERS]
    del data.graph.input[:]
    data.graph.input.extend(kept)
    parts = [name for name in frontier if name in learnt]
    data.graph.input.extend(_value(name, values[name]) for name in parts)
    data.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values[name]), name) for name in frontier if name not in learnt
    )
    return Skeleton(_program(model, static, parts, values), _optimised(data))


def fold(predict: bytes, parameters: NDArray[np.float32]) -> ModelProto:
    """``predict.onnx`` with parameters float32 (P,) put in: ``(x) -> outputs``."""
    return skeleton(predict).with_parameters(parameters)


def _depending(model: ModelProto, sources: Iterable[str]) -> set[str]:
    """All tensors that depend on one of the sources, themselves included."""
    found = set(sources)
    for node in model.graph.node:
        if found.intersection(node.input):
            found.update(node.output)
    return found


def _size(model: ModelProto) -> int:
    shapes = {value.name: value.type.tensor_type.shape for value in model.graph.input}
    return int(shapes[_PARAMETERS].dim[0].dim_value)


def _value(name: str, array: Array) -> onnx.ValueInfoProto:
    array = np.asarray(array)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _program(
    model: ModelProto, nodes: list[NodeProto], outputs: list[str], values: dict[str, Array] | None = None
) -> ModelProto:
    """The program (parameters) -> outputs, of those nodes that they need. values: for their shapes."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    inputs = [value for value in model.graph.input if value.name == _PARAMETERS]
    initialisers = [one for one in model.graph.initializer if one.name in needed]
    for part in (graph.node, graph.input, graph.output, graph.initializer, graph.value_info):
        del part[:]
    graph.node.extend(reversed(kept))
    graph.input.extend(inputs)
    graph.initializer.extend(initialisers)
    graph.output.extend(
        _value(name, values[name]) if values else onnx.ValueInfoProto(name=name) for name in outputs
    )
    return made


def _session(model: ModelProto) -> InferenceSession:
    return InferenceSession(model.SerializeToString(), _options(), providers=list(_CPU))


def _options() -> SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _optimised(model: ModelProto) -> ModelProto:
    """Let onnxruntime tidy up (constants, MatMul and Add into Gemm, ...), for no processor in particular."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        options = _options()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        InferenceSession(model.SerializeToString(), options, providers=list(_CPU))
        return onnx.load(target)


# ---- BatchNorm


def _fold_batch_norms(model: ModelProto) -> None:
    """Conv followed by BatchNormalization becomes one Conv (Jacob et al., arXiv 1712.05877, section 3.2)."""
    graph = model.graph
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    convolutions = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    moving = _depending(model, [value.name for value in graph.input if value.name != _PARAMETERS])
    folded: list[NodeProto] = []
    for node in graph.node:
        before = convolutions.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if (
            before is None
            or uses[before.output[0]] != 1
            or len(node.output) != 1
            or moving.intersection([*node.input[1:], *before.input[1:]])
        ):
            folded.append(node)
            continue
        folded.remove(before)
        folded += _one_convolution(before, node)
    del graph.node[:]
    graph.node.extend(folded)


def _one_convolution(convolution: NodeProto, norm: NodeProto) -> list[NodeProto]:
    x, weight, *bias = convolution.input
    _, gamma, beta, mean, variance = norm.input
    name = norm.output[0]
    epsilon = next((one.f for one in norm.attribute if one.name == "epsilon"), 1e-5)

    def made(part: str) -> str:
        return f"{name}_{part}"

    def constant(part: str, value: Array) -> NodeProto:
        return helper.make_node(
            "Constant", [], [made(part)], value=numpy_helper.from_array(np.asarray(value), made(part))
        )

    nodes = [
        constant("epsilon", np.array(epsilon, np.float32)),
        helper.make_node("Add", [variance, made("epsilon")], [made("shifted")]),
        helper.make_node("Sqrt", [made("shifted")], [made("deviation")]),
        helper.make_node("Div", [gamma, made("deviation")], [made("factor")]),
        # (C,) as (C, 1, 1, ...), of whatever rank the weight has.
        helper.make_node("Shape", [weight], [made("shape")]),
        helper.make_node("Shape", [made("shape")], [made("rank")]),
        helper.make_node(
            "ConstantOfShape",
            [made("rank")],
            [made("ones")],
            value=numpy_helper.from_array(np.array([1], np.int64)),
        ),
        constant("first", np.array([0], np.int64)),
        constant("minus_one", np.array([-1], np.int64)),
        helper.make_node(
            "ScatterElements", [made("ones"), made("first"), made("minus_one")], [made("column")], axis=0
        ),
        helper.make_node("Reshape", [made("factor"), made("column")], [made("factors")]),
        helper.make_node("Mul", [weight, made("factors")], [made("weight")]),
    ]
    if bias and bias[0]:
        nodes.append(helper.make_node("Sub", [bias[0], mean], [made("centred")]))
    else:
        nodes.append(helper.make_node("Neg", [mean], [made("centred")]))
    nodes += [
        helper.make_node("Mul", [made("centred"), made("factor")], [made("scaled")]),
        helper.make_node("Add", [made("scaled"), beta], [made("bias")]),
    ]
    one = NodeProto()
    one.CopyFrom(convolution)
    del one.input[:]
    del one.output[:]
    one.input.extend([x, made("weight"), made("bias")])
    one.output.append(name)
    return [*nodes, one]

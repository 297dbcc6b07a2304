"""Parameters put into ``predict.onnx``: what depends on them alone becomes an initialiser of its own name.

The graph that comes out is the same for all parameters: onnxruntime optimises it while the tensors made of
parameters are still inputs, so no fusion can hang on their values (it would merge two biases that are equal
before the first training, and give its own names to what it fuses). A device needs this to replace the
tensors one by one. BatchNorm is folded into the convolution before it, as part of the graph.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import marram  # noqa: F401 - switches onnxruntime's telemetry off before its import
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.quantization.onnx_model import ONNXModel

from marram_cloud.compression.batch_norm import fold_batch_norms
from marram_cloud.compression.graph import depending, reads
from marram_cloud.compression.products import let_products_broadcast

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
        return _values(self.tensors, list(self.names), parameters)

    def with_parameters(self, parameters: NDArray[np.float32]) -> ModelProto:
        """``(x) -> outputs`` with the tensors as initialisers."""
        model = ModelProto()
        model.CopyFrom(self.data)
        values = self.values(parameters)
        kept = [value for value in model.graph.input if value.name not in values]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        used = {name for node in model.graph.node for name in reads(node)}
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), name) for name, value in values.items() if name in used
        )
        return model


def skeleton(predict: bytes) -> Skeleton:
    """Cut ``predict.onnx`` in two. Raises onnxruntime's errors for a graph that it cannot load."""
    model = onnx.load_from_string(predict)
    ONNXModel(model).topological_sort()
    let_products_broadcast(model.graph)
    fold_batch_norms(model, moving=depending(model.graph, _inputs(model)))
    moving = depending(model.graph, _inputs(model))
    learnt = depending(model.graph, [_PARAMETERS]) - moving
    static = [node for node in model.graph.node if not moving.intersection(node.output)]
    # Constants stay with the data: onnxruntime folds them, but for weights that are int8 already.
    others = [node for node in model.graph.node if not learnt.intersection(node.output)]
    wanted = {name for node in others for name in reads(node)}
    wanted |= {value.name for value in model.graph.output}
    parts = [name for name in (_PARAMETERS, *_outputs(static)) if name in learnt & wanted]
    values = _values(_program(model, static, parts), parts, np.zeros(_size(model), np.float32))
    data = ModelProto()
    data.CopyFrom(model)
    del data.graph.node[:]
    data.graph.node.extend(others)
    kept = [value for value in data.graph.input if value.name != _PARAMETERS]
    del data.graph.input[:]
    data.graph.input.extend([*kept, *(_value(name, values[name]) for name in parts)])
    return Skeleton(_program(model, static, parts, values), _optimised(data))


def _outputs(nodes: list[NodeProto]) -> list[str]:
    return [name for node in nodes for name in node.output]


def _inputs(model: ModelProto) -> list[str]:
    return [value.name for value in model.graph.input if value.name != _PARAMETERS]


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
            needed.update(reads(node))
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


def _values(program: ModelProto, names: list[str], parameters: NDArray[np.float32]) -> dict[str, Array]:
    if not names:
        return {}
    return dict(zip(names, _session(program).run(names, {_PARAMETERS: parameters}), strict=True))


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

"""``predict.onnx`` with its parameters put in and everything computed that depends on no input.

The weights come out as initialisers under the names that they have in ``predict.onnx``. So what is said of a
tensor here, its range or its place, also holds there.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import marram  # noqa: F401 - switches onnxruntime's telemetry off before its import
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from marram_cloud.compression.errors import CompressionError


def fold(predict: bytes, parameters: NDArray[np.float32]) -> onnx.ModelProto:
    """predict: ONNX bytes. parameters: float32 (P,). Every node of the result has a name of its own.

    Raises CompressionError for parameters that are not finite.
    """
    wrong = int((~np.isfinite(parameters)).sum())
    if wrong:
        raise CompressionError(
            f"{wrong} of {len(parameters)} parameters {'is' if wrong == 1 else 'are'} NaN or infinite: take "
            "the parameters from before that training"
        )
    model = onnx.load_from_string(predict)
    _let_products_broadcast(model.graph)
    kept = [value for value in model.graph.input if value.name != "parameters"]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.append(onnx.numpy_helper.from_array(parameters, "parameters"))
    folded = _optimised(model)
    # Left in, the shapes of all values would be a third of a small model's bytes.
    del folded.graph.value_info[:]
    taken: set[str] = set()
    for number, node in enumerate(folded.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        taken.add(node.name)
    return folded


def _optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(target)


def _let_products_broadcast(graph: onnx.GraphProto) -> None:
    """Take away the Expand of a weight in front of a MatMul, which broadcasts by itself.

    PyTorch writes a Linear layer over sequences as a batched product with a copy of the weight for every
    step; folded, the file would hold all the copies.
    """
    shapes = _shapes(graph)
    makers = {output: node for node in graph.node for output in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    unneeded = []
    for product in graph.node:
        expand = makers.get(product.input[1]) if product.op_type == "MatMul" else None
        if expand is None or expand.op_type != "Expand" or uses[expand.output[0]] != 1:
            continue
        weight, copies, left = (
            shapes.get(name, ()) for name in (expand.input[0], expand.output[0], product.input[0])
        )
        # The left side must bring the leading axes itself, or the product would lose them.
        if len(weight) >= 2 and weight[-2:] == copies[-2:] and left[:-2] == copies[:-2] and None not in left:
            product.input[1] = expand.input[0]
            unneeded.append(expand)
    for node in unneeded:
        graph.node.remove(node)


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | str | None, ...]]:
    """By value: a size, the name of one that varies, or None for one that is not known."""
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(
            size.dim_value if size.HasField("dim_value") else size.dim_param or None
            for size in value.type.tensor_type.shape.dim
        )
        for value in [*inferred.value_info, *inferred.input, *inferred.output]
    }

"""Products of matrices as PyTorch writes them, made smaller before they are folded."""

from __future__ import annotations

from collections import Counter

import onnx


def let_products_broadcast(graph: onnx.GraphProto) -> None:
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

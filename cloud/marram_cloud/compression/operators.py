"""Which nodes of a folded model run in int8.

Measured with onnxruntime 1.32 on the processor: layers with a constant weight (Conv, Gemm, MatMul) have int8
kernels; what only moves, joins or clips values has them too, but pays only where int8 comes in on every side
and goes on behind, for else each value is turned to int8 and back for nothing. ConvTranspose, normalisations,
smooth activations and products of two activations (attention) have none that pay: they stay in float.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

_LAYERS = {"Conv", "Gemm", "MatMul"}
CLIPPING = {"Relu", "Clip"}
_PASSING = CLIPPING | {
    "Add", "AveragePool", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Pad", "Reshape", "Resize",
    "Slice", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
QUANTISABLE = sorted(_LAYERS | _PASSING)
GIVEN_IN_FLOAT = ["Gemm", "MatMul"]
"""Layers whose kernels give float as fast: what they give is turned to int8 only where that is read."""


@dataclass(frozen=True)
class Layer:
    """One layer with a weight. name: its node's. weight: the initialiser's name; shape: the weight's."""

    name: str
    operator: str
    weight: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Numbers in the weight."""
        return int(np.prod(self.shape))


def layers(folded: onnx.ModelProto) -> list[Layer]:
    """The layers that can be quantised, in the order of the graph; those that are QDQ already are not."""
    weights = {one.name: one for one in folded.graph.initializer if len(one.dims) >= 2}
    return [
        Layer(node.name, node.op_type, node.input[1], tuple(weights[node.input[1]].dims))
        for node in folded.graph.node
        if node.op_type in _LAYERS and node.input[1] in weights
    ]


def chosen(folded: onnx.ModelProto, keep_float: frozenset[str]) -> list[str]:
    """Names of the nodes to quantise, without the layers in ``keep_float`` and what only leads to those."""
    nodes = list(folded.graph.node)
    constant = {one.name for one in folded.graph.initializer}
    heavy = {one.name for one in layers(folded)} - keep_float
    names = set(heavy)
    coming = {output for node in nodes if node.name in heavy for output in node.output}
    direct = set(coming)
    passing = []
    for node in nodes:
        given = [name for name in node.input if name and name not in constant]
        if node.op_type in _PASSING and given and coming.issuperset(given):
            coming.update(node.output)
            passing.append(node)
    wanted = {node.input[0] for node in nodes if node.name in heavy}
    for node in reversed(passing):
        # A Relu or Clip behind a layer melts into it, whatever comes then.
        if wanted.intersection(node.output) or (node.op_type in CLIPPING and node.input[0] in direct):
            names.add(node.name)
            wanted.update(node.input)
    return [node.name for node in nodes if node.name in names]

"""Values of a graph with the batch as their innermost axis: (1, channels, ..., n), not (n, channels, ...).

Convolutions ask for it by two marks, before and behind. Here the marks become transpositions, and as few as
possible: what lies between two convolutions is computed the same way, where that is done value by value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript.values import Opset

Value = Any
Shape = tuple[int | str, ...]
_DOMAIN = "marram.innermost"
_TO, _FROM = "To", "From"
_RANK = 4  # of the values (n, channels, height, width); behind a To it is one more
_ELEMENTWISE = frozenset(
    (
        "Abs", "Add", "Cast", "Clip", "Div", "Erf", "Exp", "Greater", "GreaterOrEqual", "HardSigmoid", "Less",
        "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Pow", "Reciprocal", "Relu", "Sigmoid",
        "Sign", "Sqrt", "Sub", "Tanh", "Where",
    )
)  # fmt: skip
_SUMS = [0, 2, 3]
_KINDS = [("T", ["tensor(float)"], "")]
for _name in (_TO, _FROM):
    if not onnx.defs.has(_name, _DOMAIN):
        _given, _made = (onnx.defs.OpSchema.FormalParameter(one, "T") for one in ("value", "laid"))
        _schema = onnx.defs.OpSchema(
            _name, _DOMAIN, 1, inputs=[_given], outputs=[_made], type_constraints=_KINDS
        )
        onnx.defs.register_schema(_schema)
_MARKS = Opset(_DOMAIN, 1)


def to_innermost(value: Value) -> Value:
    """A mark: (n, c, h, w) as (1, c, h, w, n)."""
    return _MARKS.To(value)


def from_innermost(value: Value) -> Value:
    """A mark: back."""
    return _MARKS.From(value)


def laid_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without marks. Shapes of its values are taken from ``value_info``."""
    graph = model.graph
    if not any(node.domain == _DOMAIN for node in graph.node):
        return model
    _Pass(graph).run()
    kept = [one for one in model.opset_import if one.domain != _DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


class _Pass:
    """One walk along the graph. inner: by value, the name of its form with the batch innermost."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._shapes = {one.name: _shape(one) for one in (*graph.value_info, *graph.input, *graph.output)}
        self._constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._inner: dict[str, str] = {}
        self._outer: set[str] = set()
        self._small: dict[str, str] = {}
        self._made: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in list(self._graph.node):
            if node.op_type == "Constant":
                self._constants[node.output[0]] = _constant(node)
            if node.domain == _DOMAIN:
                self._mark(node)
            elif not self._moved(node):
                for name in (*node.input, *_captured(node)):
                    self._outside(name)
                self._made.append(node)
        for output in self._graph.output:
            self._outside(output.name)
        wanted = _used(self._made, [one.name for one in self._graph.output])
        del self._graph.node[:]
        self._graph.node.extend(wanted)

    def _mark(self, node: onnx.NodeProto) -> None:
        source, target = node.input[0], node.output[0]
        if node.op_type == _FROM:
            self._inner[target] = source
            return
        self._made.append(helper.make_node("Identity", [self._inside(source)], [target]))

    def _moved(self, node: onnx.NodeProto) -> bool:
        """Whether the node could be computed with the batch innermost, and was put there."""
        if not self._inner.keys() & set(node.input):
            return False
        if node.op_type == "ReduceSum" and node.input[0] in self._inner:
            return self._sum(node)
        if node.op_type == "BatchNormalization" and node.input[0] in self._inner:
            self._put(node, [self._inside(node.input[0]), *node.input[1:]])
            return True
        if node.op_type not in _ELEMENTWISE or len(self._shapes.get(node.output[0], ())) != _RANK:
            return False
        whole = self._shapes[node.output[0]]
        forms = [self._form(name, whole) for name in node.input]
        if any(one is None for one in forms):
            return False
        self._put(node, [one for one in forms if one is not None])
        return True

    def _form(self, name: str, whole: Shape) -> str | None:
        """An operand with the batch innermost; None where it has another shape."""
        if not name:
            return name
        shape = self._shapes.get(name)
        if name in self._constants:
            shape = self._constants[name].shape
        if shape is None:
            return None
        if all(size == 1 for size in shape) and len(shape) < _RANK:
            return name
        if shape == whole:
            return self._inside(name)
        if len(shape) == _RANK and all(size == 1 for place, size in enumerate(shape) if place != 1):
            return self._of_channels(name, shape)
        return None

    def _of_channels(self, name: str, shape: Shape) -> str:
        """(1, c, 1, 1) with one more axis."""
        if name not in self._small:
            self._small[name] = f"{name}_for_innermost"
            self._outside(name)
            self._add("Reshape", [name, self._ints([*map(int, shape), 1])], self._small[name])
        return self._small[name]

    def _sum(self, node: onnx.NodeProto) -> bool:
        axes = self._constants.get(node.input[1]) if len(node.input) > 1 else None
        keeps = next((one.i for one in node.attribute if one.name == "keepdims"), 1)
        if axes is None or keeps or sorted(int(axis) % _RANK for axis in axes) != _SUMS:
            return False
        moved = onnx.NodeProto()
        moved.CopyFrom(node)
        moved.input[0], moved.input[1] = self._inside(node.input[0]), self._ints([*_SUMS, _RANK])
        self._made.append(moved)
        return True

    def _put(self, node: onnx.NodeProto, inputs: list[str]) -> None:
        moved = onnx.NodeProto()
        moved.CopyFrom(node)
        del moved.input[:]
        moved.input.extend(inputs)
        self._inner[node.output[0]] = moved.output[0] = f"{node.output[0]}_innermost"
        self._made.append(moved)

    def _inside(self, name: str) -> str:
        if name not in self._inner:
            self._inner[name] = f"{name}_innermost"
            turned = f"{name}_turned"
            self._add("Transpose", [name], turned, perm=[*range(1, _RANK), 0])
            self._add("Unsqueeze", [turned, self._ints([0])], self._inner[name])
            self._outer.add(name)
        return self._inner[name]

    def _outside(self, name: str) -> None:
        if name not in self._inner or name in self._outer:
            return
        self._outer.add(name)
        turned = f"{name}_turned"
        self._add("Squeeze", [self._inner[name], self._ints([0])], turned)
        self._add("Transpose", [turned], name, perm=[_RANK - 1, *range(_RANK - 1)])

    def _add(self, operator: str, inputs: list[str], output: str, **options: Any) -> None:  # noqa: ANN401
        self._made.append(helper.make_node(operator, inputs, [output], **options))

    def _ints(self, values: list[int]) -> str:
        name = "innermost_" + "_".join(map(str, values))
        if name not in self._constants:
            array = np.array(values, np.int64)
            self._constants[name] = array
            self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def _captured(node: onnx.NodeProto) -> list[str]:
    """What the node's inner graphs take, some of it from outside."""
    return [name for one in node.attribute for inner in one.g.node for name in inner.input]


def _used(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input, _captured(node))
            kept.append(node)
    return kept[::-1]


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim)


def _constant(node: onnx.NodeProto) -> Any:  # noqa: ANN401
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.array(value)

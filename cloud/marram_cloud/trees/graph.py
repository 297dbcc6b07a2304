"""Writing an ONNX graph node by node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET, ML_OPSET, IR_VERSION = 18, 3, 9
ML = "ai.onnx.ml"


class Graph:
    """Nodes and constants on their way to a model; every node and constant gets a name of its own."""

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = prefix

    def constant(self, value: object, dtype: type[np.generic] = np.int64) -> str:
        """The name of a constant."""
        name = f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def node(
        self, operator: str, inputs: Sequence[str], output: str = "", domain: str = "", **attributes: object
    ) -> str:
        """Add a node with one output; its name."""
        return self.nodes_out(operator, inputs, [output or self._fresh(operator)], domain, **attributes)[0]

    def nodes_out(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str = "",
        **attributes: object,
    ) -> list[str]:
        """Add a node with outputs of these names."""
        self.nodes.append(
            helper.make_node(operator, list(inputs), list(outputs), domain=domain, **attributes)
        )
        return list(outputs)

    def body(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """What was written, as the body of a loop."""
        return helper.make_graph(self.nodes, f"{self._prefix}body", inputs, outputs, self.constants)

    def model(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> bytes:
        """The bytes of the whole model."""
        graph = helper.make_graph(self.nodes, "trees", inputs, outputs, self.constants)
        domains = {node.domain for node in self.nodes}
        opsets = [helper.make_opsetid("", OPSET)]
        opsets += [helper.make_opsetid(ML, ML_OPSET)] if ML in domains else []
        made: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(made)
        content: bytes = made.SerializeToString(deterministic=True)
        return content

    def include(self, content: bytes) -> None:
        """Begin with the nodes and constants of another model."""
        graph = onnx.load_from_string(content).graph
        self.nodes += graph.node
        self.constants += graph.initializer

    def _fresh(self, operator: str) -> str:
        return f"{self._prefix}{operator.lower()}_{len(self.nodes)}"


def floats(name: str, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def integers(name: str, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def array(model: bytes, name: str) -> NDArray[np.generic]:
    """A constant of a model, by its name."""
    graph = onnx.load_from_string(model).graph
    return next(numpy_helper.to_array(one) for one in graph.initializer if one.name == name)

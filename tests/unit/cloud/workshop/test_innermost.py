"""Graphs whose values have the batch innermost between marks: the same numbers, and few transpositions."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.programs.program import load
from marram_cloud.workshop.innermost import laid_out
from onnx import TensorProto, helper, numpy_helper

SHAPE = ["batch", 3, 4, 5]
CHANNEL = np.array([0.5, -1.0, 2.0], np.float32)


class Graph:
    """A chain of operators on a value of SHAPE, between marks where it is asked for."""

    def __init__(self):
        self.nodes, self.values, self.constants = [], [], {}
        self.count, self.last = 0, "x"
        self.constant("channel", CHANNEL.reshape(1, 3, 1, 1))
        self.constant("row", np.arange(5, dtype=np.float32))
        self.constant("half", np.array(0.5, np.float32))
        for name, value in {"one": np.ones(3), "none": np.zeros(3), "c": CHANNEL}.items():
            self.constant(name, value.astype(np.float32))
        self.constant("sums", np.array([0, 2, 3]))

    def constant(self, name, value):
        self.constants[name] = numpy_helper.from_array(value, name)

    def add(self, operator, *inputs, shape=SHAPE, domain="", **options):
        self.count += 1
        name = f"v{self.count}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], domain=domain, **options))
        if shape:
            self.values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def between_marks(self, marked):
        """Negated, with the batch innermost."""
        domain = "marram.innermost"
        inside = self.add("To", self.last, shape=None, domain=domain) if marked else self.last
        turned = self.add("Neg", inside, shape=None)
        self.last = self.add("From", turned, domain=domain) if marked else turned

    def then(self, step, marked):
        last = self.last
        if step == "marks":
            self.between_marks(marked)
        elif step == "relu":
            self.last = self.add("Relu", last)
        elif step == "norm":
            self.last = self.add("BatchNormalization", last, "c", "one", "none", "one")
        elif step == "past":
            self.last = self.add("Add", last, "x")
        elif step == "sum":
            channels = self.add("ReduceSum", last, "sums", shape=[3], keepdims=0)
            shape = self.add("Reshape", channels, "four", shape=[1, 3, 1, 1])
            self.last = self.add("Mul", last, shape)
        else:
            self.last = self.add("Mul", last, step)

    def model(self, laid):
        self.constant("four", np.array([1, 3, 1, 1]))
        output = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, SHAPE)
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)], [output],
            list(self.constants.values()), value_info=[one for one in self.values if one.name != self.last],
        )  # fmt: skip
        domains = [helper.make_opsetid("", 18), helper.make_opsetid("marram.innermost", 1)]
        made = helper.make_model(graph, opset_imports=domains, ir_version=9)
        return laid_out(made) if laid else made


def built(steps, marked):
    graph = Graph()
    for step in steps:
        graph.then(step, marked)
    return graph.model(marked)


def run(model):
    x = np.random.default_rng(1).normal(size=(6, 3, 4, 5)).astype(np.float32)
    (found,) = load(model.SerializeToString(), "onnx")(x=x).values()
    return found


STEPS = st.sampled_from(["marks", "relu", "norm", "past", "sum", "channel", "row", "half"])


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=9))
def test_the_numbers_stay_the_same(steps):
    model = built(steps, True)
    assert {one.domain for one in model.opset_import} <= {""} or "marks" not in steps
    onnx.checker.check_model(model)
    np.testing.assert_allclose(run(model), run(built(steps, False)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("between", "transpositions"),
    [
        ([], 2),
        (["relu", "norm", "channel", "half", "sum"], 2),
        (["past"], 2),  # of x there is one already
        (["row"], 4),  # along another axis than the channels: not possible
    ],
)
def test_values_stay_innermost_between_two_marks_where_they_can(between, transpositions):
    model = built(["marks", *between, "marks"], True)
    assert sum(node.op_type == "Transpose" for node in model.graph.node) == transpositions


def test_a_graph_without_marks_is_left_alone():
    graph = Graph()
    graph.then("relu", True)
    before = graph.model(False)
    assert laid_out(before).SerializeToString() == before.SerializeToString()

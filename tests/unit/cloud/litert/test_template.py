"""Out of two conversions comes a template that makes the file for any parameters, as the converter would."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.programs.program import load
from marram_cloud.compression.errors import CompressionError
from marram_cloud.litert.template import filled, make, probe
from onnx import TensorProto, helper

from tests.support import tflite

NAMES = {"inputs": ["x"], "outputs": ["scores"]}
CHANNELS, LENGTH, LABELS = 2, 4, 3
COUNT = LABELS * CHANNELS * LENGTH + LABELS


def converter(order):
    """A "converter" that lays the weights out by ``order``."""

    def convert(parameters, signed=True):
        weights = parameters[:-LABELS][order].reshape(LABELS, CHANNELS * LENGTH)
        shape = (1, CHANNELS, LENGTH)
        return tflite.linear(weights, shape, bias=parameters[-LABELS:], signed=signed)

    return convert


def predict(count):
    """A predict.onnx of which no weight can be made but the sum of all parameters."""
    nodes = [
        helper.make_node("ReduceSum", ["parameters"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["x", "sum"], ["scores"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("parameters", (count,)), ("x", ("batch", 2)), ("scores", ("batch", 2)))
    ]
    graph = helper.make_graph(nodes, "predict", values[:2], values[2:])
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def template(convert, count=COUNT):
    probes = [probe(count, seed) for seed in (1, 2)]
    return make(predict(count), probes, [convert(one) for one in probes], NAMES)


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(COUNT - LABELS)), st.integers(0, 2**32 - 1))
def test_a_filled_template_is_what_the_converter_would_have_made(order, seed):
    convert = converter(np.array(order))
    parameters = np.random.default_rng(seed).normal(size=COUNT).astype(np.float32)
    found = load(filled(template(convert), b"", parameters), "tflite")
    x = np.random.default_rng(1).normal(size=(5, CHANNELS, LENGTH)).astype(np.float32)
    (expected,) = load(convert(parameters, signed=False), "tflite")(x=x).values()
    np.testing.assert_array_equal(found(x=x)["scores"], expected)


def test_a_transposed_weight_takes_no_list_of_places():
    """A few numbers say it, however large the weight."""
    turned = np.arange(COUNT - LABELS).reshape(-1, LABELS).T.reshape(-1)
    chance = np.random.default_rng(0).permutation(COUNT - LABELS)
    ordered, by_chance = template(converter(turned)), template(converter(chance))
    assert len(ordered) < len(by_chance) - 50


def test_a_template_holds_no_weights():
    many = 3 * 2000 + 3

    def convert(parameters):
        weights = parameters[:-3].reshape(3, 2000)
        return tflite.linear(weights, (1, 2, 1000), bias=parameters[-3:], signed=True)

    assert len(template(convert, many)) < 3000 < len(convert(probe(many, 1)))


def test_a_weight_of_unknown_origin_is_told():
    def convert(parameters):
        return converter(np.arange(24))(np.sin(parameters))

    with pytest.raises(CompressionError, match=r"a weight of shape \(3, 8\) .* is calculated"):
        template(convert)


def test_a_file_that_is_no_template_is_refused():
    with pytest.raises(CompressionError, match="is no template"):
        filled(converter(np.arange(24))(probe(COUNT, 1)), b"", probe(COUNT, 1))

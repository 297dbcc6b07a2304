"""A tensor of a TFLite program is known again in predict.onnx by what it holds."""

import numpy as np
from marram_cloud.compression.quantise import activations
from marram_cloud.litert.tensors import renamed
from onnx import TensorProto, helper, numpy_helper

from tests.support import tflite

CHANNELS, LENGTH, LABELS = 2, 4, 3
SHAPE = (CHANNELS, LENGTH)
COUNT = LABELS * CHANNELS * LENGTH
PARAMETERS = np.random.default_rng(0).normal(size=COUNT).astype(np.float32)
NOISE = np.random.default_rng(1).normal(size=(8, CHANNELS, LENGTH)).astype(np.float32)


def predict():
    """(parameters, x) -> softmax(parameters as a matrix @ window)."""
    nodes = [
        helper.make_node("Reshape", ["parameters", "shape"], ["weights"]),
        helper.make_node("Flatten", ["x"], ["row"]),
        helper.make_node("Gemm", ["row", "weights"], ["dense"], transB=1),
        helper.make_node("Softmax", ["dense"], ["scores"], axis=1),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (
            ("parameters", (COUNT,)), ("x", ("batch", CHANNELS, LENGTH)), ("scores", ("batch", LABELS)),
        )
    ]  # fmt: skip
    shape = numpy_helper.from_array(np.array([LABELS, CHANNELS * LENGTH], np.int64), "shape")
    graph = helper.make_graph(nodes, "predict", values[:2], values[2:], [shape])
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


PREDICT = predict()
PROGRAM = tflite.linear(PARAMETERS.reshape(LABELS, -1), (1, CHANNELS, LENGTH))


def test_ranges_that_devices_told_hold_for_the_same_tensors():
    told = {name: (-float(place), 1.0 + place) for place, name in enumerate(activations(PREDICT, PARAMETERS))}
    assert len(told) == 2  # what goes into the dense layer and what comes out of it
    found = renamed(PROGRAM, PREDICT, PARAMETERS, told, SHAPE)
    assert found == {"x": (-0.0, 1.0), "logits": (-1.0, 2.0)}


def test_a_tensor_that_holds_something_else_gets_no_range():
    told = dict.fromkeys(activations(PREDICT, PARAMETERS), (0.0, 1.0))
    assert renamed(PROGRAM, PREDICT, PARAMETERS * np.float32(2), told, SHAPE) == {"x": (0.0, 1.0)}

"""calibrate.onnx: what a device makes with it is what onnxruntime's quantiser makes, to the last bit."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.bundle.int8 import int8_arrays
from marram.programs.program import load
from marram_cloud.compression.calibrate import CalibrateError, calibrate_program
from marram_cloud.compression.folding import fold
from marram_cloud.compression.quantise import activations, quantise
from marram_cloud.compression.ranges import difference, measure

from tests.support.networks import ATTENTION, RESIDUAL, drawn, program
from tests.support.windows import HOST, SHOULDER, bundle, shoulder_windows

LAYERS = """
<ir_version: 9, opset_import: ["" : 18]>
layers (float[{size}] parameters, float[batch, {channels}, 8] x) => (float[batch, 3] scores)
<int64[4] parts = {{{a}, {width}, {c}, 3}}, int64[3] first = {{{width}, {channels}, 3}},
 int64[2] last = {{{width}, 3}}, int64[2] flat = {{0, -1}}>
{{
   a, a_bias, c, c_bias = Split (parameters, parts)
   a_weight = Reshape (a, first)
   c_weight = Reshape (c, last)
   made = Conv (x, a_weight, a_bias)
   entry = Relu (made)
   pooled = GlobalAveragePool (entry)
   features = Reshape (pooled, flat)
   product = MatMul (features, c_weight)
   scores = Add (product, c_bias)
}}
"""
# BatchNorm behind a convolution without and one with a bias; its statistics are parameters too.
NORMALISED = """
<ir_version: 9, opset_import: ["" : 18]>
normalised (float[132] parameters, float[batch, 2, 16] x) => (float[batch, 4] scores)
<int64[11] parts = {24, 4, 4, 4, 4, 48, 4, 4, 4, 4, 28}, int64[3] first = {4, 2, 3},
 int64[3] second = {4, 4, 3}, int64[2] last = {4, 4}, int64[2] flat = {0, -1}, int64[2] rest = {16, 12}>
{
   a, gain, shift, mean, raw, b, b_bias, gain2, shift2, mean2, tail = Split (parameters, parts)
   head, raw_tail = Split (tail, rest)
   variance = Softplus (raw)
   a_weight = Reshape (a, first)
   b_weight = Reshape (b, second)
   c_weight = Reshape (head, last)
   made = Conv (x, a_weight)
   normal = BatchNormalization (made, gain, shift, mean, variance)
   entry = Relu (normal)
   made2 = Conv (entry, b_weight, b_bias)
   normal2 = BatchNormalization (made2, gain2, shift2, mean2, variance)
   entry2 = Relu (normal2)
   pooled = GlobalAveragePool (entry2)
   features = Reshape (pooled, flat)
   logits = MatMul (features, c_weight)
   scores = Softmax <axis = 1> (logits)
}
"""
# The same behind a Gemm, whose weight may stand either way.
NORMALISED_DENSE = """
<ir_version: 9, opset_import: ["" : 18]>
dense (float[92] parameters, float[batch, 4, 16] x) => (float[batch, 4] scores)
<int64[11] parts = {24, 6, 6, 6, 6, 24, 4, 4, 4, 4, 4}, int64[2] first = {4, 6}, int64[2] last = {4, 6},
 int64[2] flat = {0, -1}>
{
   a, gain, shift, mean, raw, b, b_bias, gain2, shift2, mean2, raw2 = Split (parameters, parts)
   variance = Softplus (raw)
   variance2 = Softplus (raw2)
   a_weight = Reshape (a, first)
   b_weight = Reshape (b, last)
   pooled = GlobalAveragePool (x)
   features = Reshape (pooled, flat)
   made = Gemm (features, a_weight)
   normal = BatchNormalization (made, gain, shift, mean, variance)
   entry = Relu (normal)
   made2 = Gemm <transB = 1> (entry, b_weight, b_bias)
   normal2 = BatchNormalization (made2, gain2, shift2, mean2, variance2)
   scores = Softmax <axis = 1> (normal2)
}
"""
# One weight and one bias in two convolutions.
SHARED = """
<ir_version: 9, opset_import: ["" : 18]>
shared (float[52] parameters, float[batch, 4, 16] x) => (float[batch, 4] scores)
<int64[2] parts = {48, 4}, int64[3] first = {4, 4, 3}, int64[2] flat = {0, -1}>
{
   a, bias = Split (parameters, parts)
   weight = Reshape (a, first)
   made = Conv <pads = [1, 1]> (x, weight, bias)
   entry = Relu (made)
   again = Conv <pads = [1, 1]> (entry, weight, bias)
   entry2 = Relu (again)
   pooled = GlobalAveragePool (entry2)
   logits = Reshape (pooled, flat)
   scores = Softmax <axis = 1> (logits)
}
"""
# Only biases are learnt; the weights are constants of the graph.
FROZEN = """
<ir_version: 9, opset_import: ["" : 18]>
frozen (float[7] parameters, float[batch, 2, 8] x) => (float[batch, 3] scores)
<int64[2] parts = {4, 3}, int64[2] flat = {0, -1}, float[4, 2, 1] a_weight = {-1, 2, 0.5, 1, 0.3, -0.7, 1, 1},
 float[4, 3] c_weight = {1, 2, 3, -1, -2, -3, 0.5, 0.25, 0.1, 2, 1, 0}>
{
   a_bias, c_bias = Split (parameters, parts)
   made = Conv (x, a_weight, a_bias)
   entry = Relu (made)
   pooled = GlobalAveragePool (entry)
   features = Reshape (pooled, flat)
   logits = Gemm (features, c_weight, c_bias)
   scores = Softmax <axis = 1> (logits)
}
"""


def made(predict, parameters, ranges):
    return calibrate_program(predict, quantise(predict, parameters, ranges), parameters, ranges)


def initialisers(content):
    model = onnx.load_from_string(content)
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


def on_a_device(calibrate, parameters, windows):
    """The arrays as a device makes them, and the ranges that it measured."""
    out = load(calibrate.content, "onnx")(parameters=parameters, x=windows)
    low, high = out["minimum"], out["maximum"]
    ranges = dict(zip(calibrate.layout.activations, zip(low, high, strict=True), strict=True))
    return int8_arrays(calibrate.layout, out, low, high), ranges


NETWORKS = {
    "residual": RESIDUAL,
    "attention": ATTENTION,
    "normalised": NORMALISED,
    "normalised dense": NORMALISED_DENSE,
    "shared": SHARED,
    "frozen": FROZEN,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_made_for_some_parameters_serves_all_others(name):
    """Zeros first: what is equal before the first training must not be taken for one thing."""
    predict, (parameters, windows) = program(NETWORKS[name]), drawn(NETWORKS[name])
    zeros = np.zeros_like(parameters)
    calibrate = made(predict, zeros, measure(predict, zeros, windows))
    arrays, ranges = on_a_device(calibrate, parameters, windows)
    infer = quantise(predict, parameters, ranges)
    held = initialisers(infer)
    for key, array in arrays.items():
        assert array.dtype == held[key].dtype, key
        np.testing.assert_array_equal(array, held[key], err_msg=key)
    blank = quantise(predict, zeros, ranges)
    own = load(blank, "onnx", initialisers=arrays)(x=windows)
    np.testing.assert_array_equal(own["scores"], load(infer, "onnx")(x=windows)["scores"])


@pytest.mark.parametrize("name", NETWORKS)
def test_its_ranges_are_those_that_onnxruntimes_calibrator_measures(name):
    predict, (parameters, windows) = program(NETWORKS[name]), drawn(NETWORKS[name])
    usual = measure(predict, parameters, windows)
    _, ranges = on_a_device(made(predict, parameters, usual), parameters, windows)
    for activation, limits in ranges.items():
        assert limits == pytest.approx(usual[activation], rel=1e-5), activation


@pytest.mark.parametrize("text", [NORMALISED, NORMALISED_DENSE], ids=["convolutions", "dense"])
def test_a_batch_norm_behind_a_layer_is_folded_into_it(text):
    predict, (parameters, windows) = program(text), drawn(text)
    folded = fold(predict, parameters)
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}
    exact = load(predict, "onnx")(parameters=parameters, x=windows)
    assert difference(exact, load(folded.SerializeToString(), "onnx")(x=windows)) < 1e-5


@pytest.mark.parametrize("source", [SHOULDER, HOST], ids=["shoulder", "host"])
def test_the_example_bundles_hold_one(source):
    manifest = bundle(source).manifest
    assert "calibrate" in manifest.programs
    assert manifest.int8.weights


SCALES = st.sampled_from([0.0, 1e-38, 1e-20, 1e-6, 1.0, 1e6, 1e20])
KINDS = st.sampled_from(["normal", "ties", "positive", "negative", "sparse"])


def values(rng, kind, size, scale):
    drawn = rng.normal(size=size)
    if kind == "ties":
        drawn = np.round(drawn * 127) / 127 + 0.5 / 127
    elif kind == "sparse":
        drawn *= rng.random(size) < 0.2
    elif kind != "normal":
        drawn = np.abs(drawn) * (1 if kind == "positive" else -1)
    return (drawn * scale).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(0, 1 << 30), KINDS, SCALES, SCALES,
    st.tuples(SCALES, SCALES), st.sampled_from([1, -1, 0]),
)  # fmt: skip
def test_numpy_quantises_as_onnxruntime_does(channels, width, seed, kind, scale, bias_scale, reach, sign):
    rng = np.random.default_rng(seed)
    sizes = (width * channels * 3, width, width * 3, 3)
    predict = program(LAYERS.format(channels=channels, width=width, a=sizes[0], c=sizes[2], size=sum(sizes)))
    scales = (scale, bias_scale, scale, bias_scale)
    parameters = np.concatenate([values(rng, kind, size, by) for size, by in zip(sizes, scales, strict=True)])
    limits = {1: (0.0, reach[1]), -1: (-reach[0], 0.0), 0: (-reach[0], reach[1])}[sign]
    ranges = {
        name: tuple(float(end) for end in np.array(limits, np.float32) * np.float32(rng.uniform(0.5, 1)))
        for name in activations(predict, parameters)
    }
    try:
        calibrate = made(predict, parameters, ranges)
    except CalibrateError as error:
        # The one thing that is refused: a bias whose scale is too small for any float32.
        assert "scale in int8" in str(error)
        return
    assert calibrate.layout.weights


def test_an_int8_program_of_other_parameters_is_not_believed():
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    ranges = measure(predict, parameters, windows)
    infer = quantise(predict, parameters * np.float32(1.01), ranges)
    with pytest.raises(CalibrateError, match="something else"):
        calibrate_program(predict, infer, parameters, ranges)


def test_onnxruntime_fuses_the_graph_with_the_devices_arrays_as_with_its_own(tmp_path):
    import onnxruntime

    source = bundle(SHOULDER)
    predict, parameters = source.members["predict.onnx"], source.parameters()
    windows = shoulder_windows(1).values[:64]
    calibrate = made(predict, parameters, measure(predict, parameters, windows))
    arrays, _ = on_a_device(calibrate, parameters * np.float32(0.9), windows)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    for name, value in held.items():
        options.add_initializer(name, value)
    onnxruntime.InferenceSession(source.members["infer.onnx"], options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("QLinearConv") == 3
    assert operators.count("QGemm") == 1
    assert not {"Conv", "Gemm", "FusedConv"}.intersection(operators)

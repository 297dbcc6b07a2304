"""From fp32 programs to int8 ones that say the same and run as int8."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from marram.programs.program import load
from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.folding import fold
from marram_cloud.compression.operators import layers
from marram_cloud.compression.quantise import activations, quantise
from marram_cloud.compression.ranges import METHODS, calibrate, difference, measure

from tests.support.networks import ATTENTION, RESIDUAL, drawn, program
from tests.support.windows import SHOULDER, bundle, shoulder_windows


def exact(predict, parameters, windows):
    return load(predict, "onnx")(parameters=parameters, x=windows)


def run_as(content, tmp_path):
    """Operators that onnxruntime makes of a program, counted."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)


def sources(content):
    """(operator, names of inputs) of every node of a program."""
    return [(node.op_type, list(node.input)) for node in onnx.load_from_string(content).graph.node]


@pytest.mark.parametrize("method", METHODS)
def test_int8_agrees_with_fp32_on_real_windows_and_is_smaller(method):
    source = bundle(SHOULDER)
    predict, parameters = source.members["predict.onnx"], source.parameters()
    ranges = measure(predict, parameters, shoulder_windows(1).values, method)
    int8 = quantise(predict, parameters, ranges)
    windows = shoulder_windows(2).values
    assert difference(exact(predict, parameters, windows), load(int8, "onnx")(x=windows)) < 0.05
    assert len(int8) < 0.6 * (len(predict) + 4 * len(parameters))


def test_a_residual_block_runs_in_int8_from_end_to_end(tmp_path):
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    int8 = quantise(predict, parameters, measure(predict, parameters, windows))
    assert difference(exact(predict, parameters, windows), load(int8, "onnx")(x=windows)) < 0.02
    operators = run_as(int8, tmp_path)
    assert (operators["QLinearConv"], operators["QLinearAdd"], operators["QGemm"]) == (2, 1, 1)
    assert operators["DequantizeLinear"] == 0  # the Gemm itself gives float to the softmax
    assert operators["Conv"] + operators["Gemm"] + operators["FusedConv"] == 0


def test_attention_stays_in_float_between_layers_in_int8(tmp_path):
    predict, (parameters, windows) = program(ATTENTION), drawn(ATTENTION)
    int8 = quantise(predict, parameters, measure(predict, parameters, windows))
    assert difference(exact(predict, parameters, windows), load(int8, "onnx")(x=windows)) < 0.05
    operators = run_as(int8, tmp_path)
    assert operators["MatMulIntegerToFloat"] == 2
    assert operators["MatMul"] + operators["FusedMatMul"] == 2
    assert operators["LayerNormalization"] == 1


def test_a_weight_that_pytorch_copies_for_every_step_is_kept_once():
    predict, (parameters, windows) = program(ATTENTION), drawn(ATTENTION)
    int8 = onnx.load_from_string(quantise(predict, parameters, measure(predict, parameters, windows)))
    sizes = {one.name: list(one.dims) for one in int8.graph.initializer}
    assert sizes["weight_quantized"] == [4, 24]


def test_layers_that_are_kept_in_float_give_what_fp32_gives(tmp_path):
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    names = [node.name for node in onnx.load_from_string(predict).graph.node]
    assert not any(names)  # a program need not name its nodes: then the build does
    ranges = measure(predict, parameters, windows)
    found = [one.name for one in layers(fold(predict, parameters))]
    assert len(found) == 3
    operators = run_as(quantise(predict, parameters, ranges, found[:2]), tmp_path)
    assert (operators["QLinearConv"], operators["QGemm"]) == (0, 1)
    whole = load(quantise(predict, parameters, ranges, found), "onnx")(x=windows)
    assert difference(exact(predict, parameters, windows), whole) < 1e-5


def test_what_is_int8_already_is_left_alone():
    """A frozen backbone that was quantised before, with a head that is trained."""
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    first = quantise(predict, parameters, measure(predict, parameters, windows))
    frozen = onnx.load_from_string(first)
    # The logits' matrix becomes a parameter again, the rest stays as it was quantised.
    gemm = next(node for node in frozen.graph.node if node.op_type == "Gemm")
    for made in [node for node in frozen.graph.node if set(node.output) & set(gemm.input[1:])]:
        frozen.graph.node.remove(made)
    del gemm.input[1:]
    gemm.input.extend(["head", "bias"])
    helper, whole = onnx.helper, onnx.TensorProto
    frozen.graph.node.insert(0, helper.make_node("Split", ["parameters", "parts"], ["flat_head", "bias"]))
    frozen.graph.node.insert(1, helper.make_node("Reshape", ["flat_head", "shape"], ["head"]))
    frozen.graph.initializer.append(helper.make_tensor("parts", whole.INT64, [2], [32, 4]))
    frozen.graph.initializer.append(helper.make_tensor("shape", whole.INT64, [2], [4, 8]))
    frozen.graph.input.append(helper.make_tensor_value_info("parameters", whole.FLOAT, [36]))
    partly, head = frozen.SerializeToString(), parameters[280:]

    assert activations(partly, head) == ("logits",)
    again = quantise(partly, head, measure(partly, head, windows))
    assert load(again, "onnx")(x=windows)["scores"] == pytest.approx(
        load(first, "onnx")(x=windows)["scores"], abs=0.02
    )
    counts = [Counter(name for name, _ in sources(one)) for one in (first, again)]
    assert counts[0]["QuantizeLinear"] == counts[1]["QuantizeLinear"]
    np.testing.assert_array_equal(weight(again, "b_weight_quantized"), weight(first, "b_weight_quantized"))


def weight(content, name):
    model = onnx.load_from_string(content)
    return onnx.numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == name))


def test_the_ranges_of_other_windows_may_be_given(tmp_path):
    """As devices report them: by the names of the activations."""
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    ranges = dict.fromkeys(activations(predict, parameters), (-6.0, 6.0))
    int8 = quantise(predict, parameters, ranges)
    assert weight(int8, "normal_scale") == pytest.approx(12 / 255)
    assert load(int8, "onnx")(x=windows)["scores"].shape == (120, 4)


def test_every_activation_that_the_file_quantises_is_named():
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    int8 = quantise(predict, parameters, measure(predict, parameters, windows))
    quantised = [inputs[0] for name, inputs in sources(int8) if name == "QuantizeLinear"]
    # And of a dense layer what it gives, which stays float here but not in the form for LiteRT.
    assert sorted([*quantised, "logits"]) == sorted(activations(predict, parameters))


def test_the_same_input_gives_the_same_bytes():
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    first, second = (quantise(predict, parameters, calibrate(predict, parameters, windows)) for _ in range(2))
    assert first == second


def test_the_method_that_measures_best_is_taken():
    """One value that is a thousand times too large: the range of all that was seen is useless."""
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    windows[1, 0, 0] = 5000
    chosen = calibrate(predict, parameters, windows)
    assert chosen["normal"][1] < measure(predict, parameters, windows, "minmax")["normal"][1]


def test_a_missing_range_is_named():
    predict, (parameters, _) = program(RESIDUAL), drawn(RESIDUAL)
    with pytest.raises(CompressionError, match="'normal' is missing"):
        quantise(predict, parameters, {})


def test_parameters_that_are_not_finite_are_refused():
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    parameters[0] = np.nan
    with pytest.raises(CompressionError, match="1 of 316 parameters is NaN or infinite"):
        quantise(predict, parameters, measure(predict, parameters, windows))


def test_a_mask_of_infinities_leaves_the_ways_to_measure_that_can_bear_it():
    """As attention has it where a step must not see those after it."""
    masked = ATTENTION.replace("float scale", "float[1] one = {1.0}, int64[2] square = {16, 16}, float scale")
    masked = masked.replace(
        "weights = Softmax <axis = 2> (scaled)",
        "ones = Expand (one, square)\n lower = Trilu <upper = 0> (ones)\n mask = Log (lower)\n"
        "allowed = Add (scaled, mask)\n weights = Softmax <axis = 2> (allowed)",
    )
    predict, (parameters, windows) = program(masked), drawn(masked)
    int8 = quantise(predict, parameters, calibrate(predict, parameters, windows))
    assert difference(exact(predict, parameters, windows), load(int8, "onnx")(x=windows)) < 0.05
    with pytest.raises(CompressionError, match="cannot be counted"):
        measure(predict, parameters, windows, "entropy")


def test_windows_for_which_the_model_gives_no_number_are_named():
    predict, (parameters, windows) = program(RESIDUAL), drawn(RESIDUAL)
    windows[3] = np.inf
    with pytest.raises(CompressionError, match=r"'normal' has the range .*inf"):
        quantise(predict, parameters, measure(predict, parameters, windows))


def test_a_program_without_layers_stays_as_it_is():
    """As of a module that only scales what it sees."""
    text = """
    <ir_version: 9, opset_import: ["" : 18]>
    scaled (float[1] parameters, float[batch, 2, 16] x) => (float[batch, 2, 16] scores)
    { scores = Mul (x, parameters) }
    """
    predict, (parameters, windows) = program(text), drawn(text)
    for method in METHODS:
        assert measure(predict, parameters, windows, method) == {}
    int8 = quantise(predict, parameters, calibrate(predict, parameters, windows))
    assert load(int8, "onnx")(x=windows)["scores"] == pytest.approx(windows * parameters)

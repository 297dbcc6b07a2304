"""Bare model files of any layout run as a bundle's program does, or are refused with the tensor's name."""

import hashlib
import json
from itertools import permutations
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from marram.bundle.bare import wrap
from marram.bundle.description import Description
from marram.config.load import loads
from marram.config.problems import InvalidConfigError
from marram.config.schema import Agent
from marram.config.values import Place
from marram.errors import BundleError, ProgramError
from marram.inference.model import int8_model
from marram.programs.program import ProgramOptions
from onnx import TensorProto, helper, numpy_helper

from tests.support import models, tflite
from tests.support.cli import marram

ABOUT = {
    "name": "tiny",
    "task": "classify",
    "channels": [{"name": "x"}, {"name": "y", "unit": "g"}],
    "rate": 10.0,
    "length": 4,
    "stride": 4,
    "labels": ["low", "high"],
}
SIZES = {"batch": "batch", "channels": 2, "length": 4, "one": 1}
LAYOUTS = [*permutations(("batch", "channels", "length")), ("batch", "length", "channels", "one")]


SOUND = models.classifier()
WHOLE_NUMBERS = models.model(
    [helper.make_node("Identity", ["x"], ["y"])],
    [models.output("y", ("batch", 2, 4), TensorProto.INT8)],
    kind=TensorProto.INT8,
)


def described(**changes):
    return msgspec.convert(ABOUT | changes, Description)


def infer(content, kind, x, **changes):
    return wrap(content, kind, described(**changes)).program("infer", ProgramOptions())(x=x)


def windows(count, channels=2):
    return np.random.default_rng(7).normal(size=(count, channels, 4)).astype(np.float32)


def expected(x):
    mean = x.mean(axis=(1, 2))
    scores = np.exp(np.stack([-mean, mean], axis=1))
    return scores / scores.sum(axis=1, keepdims=True)


def first_of_its_window(layout, batch="batch"):
    """An ONNX model that gives its input again, with all but the first channel set to 0."""
    mask = np.zeros([2 if axis == "channels" else 1 for axis in layout], np.float32)
    mask[tuple(0 for _ in layout)] = 1
    shape = [batch if axis == "batch" else SIZES[axis] for axis in layout]
    node = helper.make_node("Mul", ["x", "mask"], ["again"])
    return models.model([node], [models.output("again", shape)], {"mask": mask}, shape)


@pytest.mark.parametrize(
    ("content", "kind", "tolerance"),
    [
        (models.classifier(), "onnx", 1e-5),
        (tflite.classifier(), "tflite", 1e-5),
        (tflite.classifier((1, 2, 4)), "tflite", 1e-5),
        (tflite.classifier((3, 2, 4)), "tflite", 1e-5),
        (tflite.classifier((1, 2, 4), int8=True), "tflite", 0.02),
        (
            tflite.classifier(name="serving_default_input:0", output="StatefulPartitionedCall:0"),
            "tflite",
            1e-5,
        ),
    ],
    ids=["onnx", "tflite", "batch 1", "batch 3", "int8", "converter's names"],
)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_classifier_gives_the_scores_of_each_window(content, kind, tolerance, count):
    x = windows(count)
    np.testing.assert_allclose(infer(content, kind, x)["scores"], expected(x), atol=tolerance)


@pytest.mark.parametrize("batch", ["batch", 1, 3])
@pytest.mark.parametrize("layout", LAYOUTS, ids=" ".join)
def test_channels_and_samples_go_where_the_layout_says_and_come_back(layout, batch):
    x = windows(5)
    content = first_of_its_window(layout, batch)
    found = infer(content, "onnx", x, task="reconstruct", labels=[], layout=layout)
    errors = np.square(x)
    errors[:, 0] = 0  # the first channel is given again as it was
    np.testing.assert_allclose(found["channel_scores"], errors.mean(axis=2), rtol=1e-5)
    np.testing.assert_allclose(found["score"], errors.mean(axis=(1, 2)), rtol=1e-5)


def test_a_single_channel_may_have_no_axis():
    node = helper.make_node("Identity", ["x"], ["again"])
    shape = ("batch", 4)
    content = models.model([node], [models.output("again", shape)], shape=shape)
    about = {"channels": [{"name": "x"}], "layout": ["batch", "length"], "task": "reconstruct"}
    assert infer(content, "onnx", windows(3, 1), **about)["score"].tolist() == [0, 0, 0]


def test_logits_become_scores():
    x = windows(4)
    node = helper.make_node("ReduceMean", ["x"], ["means"], axes=[2], keepdims=0)
    content = models.model([node], [models.output("means", ("batch", 2))])
    powers = np.exp(x.mean(axis=2))
    scores = infer(content, "onnx", x, logits=True)["scores"]
    np.testing.assert_allclose(scores, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)


def test_the_bundle_around_it_is_known_by_the_file_and_cannot_be_trained():
    content = models.classifier()
    bundle = wrap(content, "onnx", described())
    assert bundle.digest == hashlib.sha256(content).hexdigest()
    assert bundle.manifest.channels[1].unit == "g"
    assert int8_model(bundle, ProgramOptions()).name == f"tiny {bundle.digest[:12]}"
    with pytest.raises(BundleError, match="bare model file, which has no 'train' program"):
        bundle.program("train")


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        (SOUND, {"length": 5}, r"input 'x' has the shape \('batch', 2, 4\), expected \('batch', 2, 5\)"),
        (SOUND, {"channels": [{"name": "x"}]}, r"input 'x' has the shape .*expected \('batch', 1, 4\)"),
        (SOUND, {"layout": ["batch", "length", "channels"]}, r"expected \('batch', 4, 2\) by layout"),
        (SOUND, {"output": "score"}, "no output 'score'; set description.output to one of 'scores'"),
        (SOUND, {"labels": ["a", "b", "c"]}, r"'scores' has the shape \(1, 2\), expected \(1, 3\)"),
        (SOUND, {"task": "reconstruct"}, r"'scores' has the shape \(1, 2\), expected the input's"),
        (b"garbage", {}, "model: onnxruntime cannot load"),
        (WHOLE_NUMBERS, {}, "input 'x' is int8, expected one of float32"),
    ],
    ids=["length", "channels", "layout", "output", "labels", "no reconstruction", "garbage", "dtype"],
)  # fmt: skip
def test_what_does_not_fit_its_description_is_refused_by_name(content, changes, words):
    with pytest.raises((BundleError, ProgramError), match=words):
        int8_model(wrap(content, "onnx", described(**changes)), ProgramOptions())


# ---- in the YAML


def read(**model):
    text = yaml.safe_dump({"sensors": [{"type": "host", "name": "h"}], "model": model})
    return loads(text, Agent, "a.yaml", Place(Path(), check_files=False))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({}, "this key is missing: expected the path of a bundle, or file"),
        ({"bundle": "a", "file": "a.onnx", "description": ABOUT}, "found both"),
        ({"file": "a.onnx"}, "expected file and description together"),
        ({"file": "a.pt", "description": ABOUT}, "ends in .onnx or .tflite, found a.pt"),
        ({"file": "a.onnx", "description": ABOUT, "parameters": "own"}, "cannot be trained"),
        ({"file": "a.onnx", "description": ABOUT | {"labels": ["a"]}}, "at least two labels"),
        (
            {"file": "a.onnx", "description": ABOUT | {"layout": ["batch", "length"]}},
            "each of batch, channels, length",
        ),
        ({"file": "a.onnx", "description": ABOUT | {"channels": [{"name": "x"}] * 2}}, "names of their own"),
    ],
)
def test_a_description_that_cannot_be_is_a_mistake_in_the_file(model, words):
    with pytest.raises(InvalidConfigError, match=words):
        read(**model)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_the_agent_runs_a_bare_file(kind, tmp_path):
    content = models.classifier() if kind == "onnx" else tflite.classifier((1, 2, 4), int8=True)
    (tmp_path / f"model.{kind}").write_bytes(content)
    rows = [f"{i / 10},{level},{level}" for i, level in enumerate([1] * 8 + [-1] * 8)]
    (tmp_path / "rows.csv").write_text("\n".join(["time,x,y", *rows]) + "\n")
    config = {
        "device": {"state": "state"},
        "sensors": [{"type": "csv", "name": "s", "path": "rows.csv", "speed": "max"}],
        "model": {"file": f"model.{kind}", "description": ABOUT},
        "outputs": [{"type": "jsonl", "path": "out.jsonl"}],
    }
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(config))
    done = marram("run", "-c", tmp_path / "agent.yaml")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["label"] for one in found] == ["high", "high", "low", "low"]
    assert found[0]["model"].startswith("tiny ")


def graph(nodes, inputs, outputs, **initializers):
    """An ONNX model of several inputs and outputs, each (name, shape)."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side]
        for side in (inputs, outputs)
    ]
    given = [numpy_helper.from_array(value, name) for name, value in initializers.items()]
    made = helper.make_graph(nodes, "graph", *values, given)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opset, ir_version=9).SerializeToString()


def counting(scale="scale"):
    """high = the mean of all windows so far: sum and count are fed back; times a constant."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["mean", "sum"], ["sum_out"]),
        helper.make_node("Add", ["count", "one"], ["count_out"]),
        helper.make_node("Div", ["sum_out", "count_out"], ["average"]),
        helper.make_node("Mul", ["average", scale], ["high"]),
    ]
    inputs = [("x", ("batch", 2, 4)), ("sum", (1,)), ("count", (1,)), (scale, ())]
    outputs = [("high", ("batch",)), ("sum_out", (1,)), ("count_out", (1,))]
    return graph(nodes, inputs, outputs, one=np.ones(1, np.float32))


FED = {"input": "x", "state": {"sum": "sum_out", "count": "count_out"}, "constants": {"scale": 0.5}}


def test_state_is_fed_back_window_by_window_however_they_come():
    x = np.abs(windows(6))
    program = wrap(counting(), "onnx", described(**FED)).program("infer", ProgramOptions())
    found = np.concatenate([program(x=part)["scores"] for part in (x[:1], x[1:5], x[5:])])
    averages = np.cumsum(x.mean(axis=(1, 2))) / np.arange(1, 7)
    np.testing.assert_allclose(found[:, 1], averages / 2, rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_a_model_that_is_loaded_anew_begins_anew():
    x = np.abs(windows(3))
    first, again = (infer(counting(), "onnx", x, **FED)["scores"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_each_of_several_inputs_takes_its_channels():
    nodes = [
        helper.make_node("ReduceMean", ["a"], ["low"], axes=[1, 2], keepdims=0),
        helper.make_node("ReduceMean", ["b"], ["high"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["low", "axis"], ["left"]),
        helper.make_node("Unsqueeze", ["high", "axis"], ["right"]),
        helper.make_node("Concat", ["left", "right"], ["scores"], axis=1),
    ]
    inputs = [("a", ("batch", 1, 4)), ("b", ("batch", 1, 4))]
    content = graph(nodes, inputs, [("scores", ("batch", 2))], axis=np.array([1], np.int64))
    x = windows(3)
    found = infer(content, "onnx", x, inputs={"a": ["y"], "b": ["x"]})["scores"]
    np.testing.assert_allclose(found, x.mean(axis=2)[:, ::-1], rtol=1e-5)


@pytest.mark.parametrize(
    "layout", [("batch", "channels", "height", "width"), ("batch", "height", "width", "channels")]
)
def test_an_image_is_a_window_of_its_rows(layout):
    """The mask lets one pixel through: the second of the first row, of the first channel."""
    sizes = {"batch": 1, "channels": 2, "height": 2, "width": 2}
    mask = np.zeros([sizes[axis] for axis in layout], np.float32)
    mask[tuple(1 if axis == "width" else 0 for axis in layout)] = 1
    shape = ["batch" if axis == "batch" else sizes[axis] for axis in layout]
    node = helper.make_node("Mul", ["x", "mask"], ["again"])
    content = models.model([node], [models.output("again", shape)], {"mask": mask}, shape)
    x = windows(3)
    found = infer(content, "onnx", x, task="reconstruct", labels=[], layout=layout, width=2)
    left = np.square(x)
    left[:, 0, 1] = 0
    np.testing.assert_allclose(found["channel_scores"], left.mean(axis=2), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "has the inputs 'x', 'sum', 'count', 'scale'; say in the description which takes the window"),
        ({**FED, "constants": {}}, "say in the description which takes the window"),
        ({**FED, "state": {"sum": "sum_out", "total": "count_out"}}, "has no input 'total'"),
        ({**FED, "state": {"sum": "sum_out", "count": "counted"}}, "has no output 'counted'"),
        ({**FED, "output": "low"}, "has no output 'low'"),
    ],
    ids=["nothing said", "one left", "no such input", "no such output", "no such score"],
)
def test_what_is_not_said_of_an_input_is_asked_for(changes, words):
    with pytest.raises(BundleError, match=words):
        int8_model(wrap(counting(), "onnx", described(**changes)), ProgramOptions())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 3}, "width: expected a divisor of length, 4"),
        ({"inputs": {"a": ["x"]}}, "inputs: expected each of x, y once"),
        ({"input": "x", "state": {"x": "y"}}, "expected each input once, found 'x' in two places"),
        (
            {"layout": ["batch", "channels", "height", "width"]},
            "expected each of batch, channels, length once",
        ),
    ],
    ids=["width", "inputs", "twice", "no width"],
)
def test_a_description_that_contradicts_itself_is_refused(tmp_path, changes, words):
    (tmp_path / "m.onnx").write_bytes(SOUND)
    about = {"file": "m.onnx", "description": ABOUT | changes}
    text = yaml.safe_dump({"sensors": [{"type": "host", "name": "h"}], "model": about})
    with pytest.raises(InvalidConfigError, match=words):
        loads(text, Agent, "a.yaml", Place(tmp_path))

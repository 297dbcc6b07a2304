"""``marram model inspect`` says what a file wants, and the YAML that it prints runs the file."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from marram.bundle.bare import open_model
from marram.bundle.description import Description
from marram.errors import BundleError
from marram.inspection.inspect import inspect
from marram.programs.program import ProgramOptions
from msgspec import convert
from onnx import helper

from tests.support import children, models, tflite
from tests.support.cli import marram
from tests.unit.bundle.test_bare import counting, graph

IMAGE = models.model(
    [helper.make_node("ReduceMean", ["x"], ["scores"], axes=[2, 3], keepdims=0)],
    [models.output("scores", ("batch", 3))],
    shape=("batch", 3, 8, 6),
)
TWO = graph(
    [
        helper.make_node("Concat", ["a", "b"], ["both"], axis=1),
        helper.make_node("ReduceMean", ["both"], ["scores"], axes=[2], keepdims=0),
    ],
    [("a", ("batch", 2, 5)), ("b", ("batch", 1, 5))],
    [("scores", ("batch", 3))],
)
AGAIN = models.model(
    [helper.make_node("Identity", ["x"], ["again"])], [models.output("again", ("batch", 2, 4))]
)
FILES = {
    "classifier.onnx": models.classifier(),
    "classifier.tflite": tflite.classifier(),
    "int8.tflite": tflite.classifier(int8=True),
    "state.onnx": counting(),
    "image.onnx": IMAGE,
    "several.onnx": TWO,
    "reconstruction.onnx": AGAIN,
}


def written(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize(
    "name", ["a model.onnx", "a: b #c.onnx", "it's.onnx", 'say "hm".onnx', "[1].onnx", "~.onnx"]
)
def test_the_yaml_that_it_prints_names_the_file(tmp_path, monkeypatch, name):
    path = written(tmp_path, name, models.classifier())
    monkeypatch.chdir(tmp_path)
    for shown in (path, Path(name)):
        text = inspect(shown)
        assert yaml.safe_load(text[text.index("\nmodel:") :])["model"]["file"] == str(shown)


@pytest.mark.parametrize("name", FILES)
def test_the_yaml_that_it_prints_runs_the_file(tmp_path, name):
    text = inspect(written(tmp_path, name, FILES[name]))
    model = yaml.safe_load(text[text.index("model:") :])["model"]
    about = convert(model["description"], Description)
    assert list(about.problems()) == []
    program = open_model(tmp_path / name, about).program("infer", ProgramOptions())
    x = np.random.default_rng(0).normal(size=(2, len(about.channels), about.length)).astype(np.float32)
    outputs = program(x=x)
    assert len(outputs["scores" if about.task == "classify" else "score"]) == 2


def test_it_names_each_input_and_output_with_type_and_shape(tmp_path):
    done = marram("model", "inspect", written(tmp_path, "m.onnx", counting()))
    assert done.returncode == 0
    out = done.stdout
    assert "takes  x      float32  (batch, 2, 4)" in out
    assert "gives  sum_out    float32  (1)" in out
    assert "state: {sum: sum_out, count: count_out}" in out


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.onnx", b"garbage", "the process that opened it: onnxruntime cannot load"),
        ("m.tflite", tflite.classifier()[:200], "the process that opened it: LiteRT cannot load"),
        ("m.txt", b"", "expected a file that ends in .onnx, .tflite or .marram"),
        ("m.marram", b"PK", "is not a whole bundle"),
    ],
    ids=["garbage", "half", "another kind", "bundle"],
)
def test_a_file_that_is_none_is_refused_with_the_reason(tmp_path, name, content, words):
    with pytest.raises(BundleError, match=words):
        inspect(written(tmp_path, name, content))


def test_a_file_that_ends_its_runtime_ends_the_child_alone(tmp_path, monkeypatch):
    with (
        children.own("os.kill(os.getpid(), 11)", tmp_path, monkeypatch),
        pytest.raises(BundleError, match="was ended by signal 11"),
    ):
        inspect(written(tmp_path, "m.onnx", models.classifier()))


def test_a_bundle_tells_its_programs(tmp_path):
    text = inspect(written(tmp_path, "m.marram", models.bundle()))
    assert "bundle tiny 1, classify, 2 channels, 4 samples at 10 a second" in text
    assert "infer (onnx)" in text

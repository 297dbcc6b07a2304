"""A PyTorch module becomes a bundle with a form for LiteRT, and so does a release of it.

The conversions take ten seconds each: `make tflite` runs them. They need litert-torch in its own environment.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from marram.bundle.file import parse, read
from marram.programs.program import load
from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.ranges import calibrate
from marram_cloud.litert.choosing import BOUND
from marram_cloud.litert.forms import TEMPLATE
from marram_cloud.litert.quantise import difference, in_float
from marram_cloud.litert.template import filled
from marram_cloud.releases.calibration import read_calibration
from marram_cloud.releases.rebuild import rebuild
from marram_cloud.workshop.budget import Budget, BudgetError
from marram_cloud.workshop.build import build, predict_program
from marram_cloud.workshop.compress import compress
from marram_cloud.workshop.litert import LITERT_TORCH, template
from marram_cloud.workshop.project import Project

from tests.zoo.projects import ZOO

EXAMPLES = Path(__file__).parents[4] / "examples"
SLOW = pytest.mark.skipif(
    not os.environ.get("MARRAM_TFLITE") or LITERT_TORCH.python is None,
    reason="make tflite converts with litert-torch, which is 2 GB large",
)


def parameters_of(bundle):
    rng = np.random.default_rng(0)
    flat = bundle.parameters()
    return flat + rng.normal(size=flat.shape).astype(np.float32) * np.float32(0.05)


@SLOW
@pytest.mark.parametrize("example", ["shoulder", "host"])
def test_a_release_has_a_form_for_litert_that_computes_what_predict_does(tmp_path, example):
    build(EXAMPLES / example, tmp_path / "made.marram", tflite=True)
    bundle = read(tmp_path / "made.marram")
    manifest = bundle.manifest
    windows = read_calibration(
        EXAMPLES / example / "calibration.npz", len(manifest.channels), manifest.length
    ).windows
    parameters = parameters_of(bundle)
    predict = bundle.members["predict.onnx"]
    expected = load(predict, "onnx")(parameters=parameters, x=windows)
    exact = load(filled(bundle.members[TEMPLATE], predict, parameters), "tflite")
    for name, values in exact(x=windows).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5 * max(1, np.abs(expected[name]).max()))
    ranges = calibrate(predict, parameters, windows)
    (tmp_path / "release.marram").write_bytes(rebuild(bundle, parameters, ranges, windows, "1", {}).content)
    released = read(tmp_path / "release.marram").program("infer_tflite")
    assert difference(exact, released, windows) < BOUND


@SLOW
@pytest.mark.parametrize("name", ["transformer", "recurrent", "recurrent-lstm"])
def test_what_litert_torch_folds_or_does_not_know_has_a_template_too(tmp_path, name):
    """Scales of LayerNorms go into the dense layers behind them; GRUs and LSTMs are unrolled."""
    (entry,) = [one for one in ZOO if one.name == name]
    project = Project(entry.write(tmp_path / name))
    functions, flat = project.functions, project.functions.flat()
    predict = predict_program(functions, entry.shape)
    outputs = [one.name for one in load(predict, "onnx").outputs]
    made = template(functions.predict, predict, flat, entry.shape, outputs, "auto")
    chance = np.random.default_rng(0).normal(size=len(flat)).astype(np.float32)
    parameters, (x, _) = flat.numpy() + np.float32(0.03) * chance, entry.windows(20, seed=1)
    exact = load(filled(made, predict, parameters), "tflite")(x=x)
    for output, wanted in load(predict, "onnx")(parameters=parameters, x=x).items():
        np.testing.assert_allclose(exact[output], wanted, atol=1e-5 * max(1, np.abs(wanted).max()))


@SLOW
def test_a_full_integer_form_is_asked_for_in_project_yaml_and_so_are_those_of_its_releases(tmp_path):
    """All of it is int8, for accelerators that know nothing else; and near enough to fp32."""
    folder = shutil.copytree(EXAMPLES / "shoulder", tmp_path / "shoulder")
    with (folder / "project.yaml").open("a") as file:
        file.write("tflite: full-integer\n")
    built = build(folder, tmp_path / "made.marram", tflite=True)
    assert "int8 (full-integer)" in built.tflite
    bundle = read(tmp_path / "made.marram")
    windows = read_calibration(folder / "calibration.npz", 6, 100).windows
    ranges = calibrate(bundle.members["predict.onnx"], bundle.parameters(), windows)
    release = parse(rebuild(bundle, bundle.parameters(), ranges, windows, "1", {}).content)
    for one in (bundle, release):
        assert in_float(one.members["infer.tflite"]) == ("REDUCE_MAX",)  # LiteRT has no int8 for it


@SLOW
def test_a_budget_holds_for_both_forms(tmp_path):
    """What keeps it for onnxruntime alone is not taken."""
    folder = shutil.copytree(EXAMPLES / "host", tmp_path / "host")
    report = tmp_path / "report"
    compress(folder, tmp_path / "made.marram", Budget(bytes=40_000), report, tflite=True)
    bundle = read(tmp_path / "made.marram")
    assert {"infer", "infer_tflite"} <= set(bundle.manifest.programs)
    tried = json.loads((report / "report.json").read_text())["candidates"]
    (form,) = [one for one in tried if one["precision"] == "LiteRT int8"]
    assert form["bytes"] == len(bundle.members["infer.tflite"])
    onnx = len(bundle.members["infer.onnx"])
    if form["bytes"] > onnx:
        with pytest.raises(BudgetError, match="LiteRT int8: "):
            compress(folder, tmp_path / "none.marram", Budget(bytes=onnx), tflite=True)
        assert not (tmp_path / "none.marram").exists()


@SLOW
def test_the_template_that_other_tests_use_is_what_the_workshop_makes(tmp_path):
    """Else write it anew: the bundle's member template.tflite."""
    build(EXAMPLES / "shoulder", tmp_path / "made", tflite=True)
    kept = Path(__file__).parents[3] / "support" / "shoulder.template.tflite"
    assert read(tmp_path / "made").members[TEMPLATE] == kept.read_bytes()


@SLOW
def test_the_same_project_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        build(EXAMPLES / "host", tmp_path / name, tflite=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_the_converter_the_build_says_how_to_get_it_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MARRAM_LITERT_PYTHON", "/nowhere/python")
    with pytest.raises(CompressionError, match=r"no litert-torch is installed: `make \.venv-litert`"):
        build(EXAMPLES / "host", tmp_path / "made.marram", tflite=True)
    assert not (tmp_path / "made.marram").exists()

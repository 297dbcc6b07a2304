"""A frozen backbone, of our making or anybody's, and the head that is trained on its features."""

import msgspec
import numpy as np
import onnx
import pytest
import torch
from marram.bundle.file import encode, parse, read
from marram.bundle.manifest import BackboneLayout
from marram.config.load import InvalidConfigError
from marram.errors import BundleError
from marram.learning.trainer import Int8Limits
from marram.programs.program import load
from marram.stream.blocks import Windows
from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.ranges import calibrate
from marram_cloud.projects.errors import ProjectError
from marram_cloud.releases.rebuild import rebuild
from marram_cloud.workshop.build import build
from marram_cloud.workshop.project import Project
from onnx import helper
from torch import nn

from tests.support import models, tflite
from tests.support.sampled import drawn
from tests.support.training import filled_store, job, run
from tests.unit.cloud.workshop.test_build import YAML, project

OWN = """\
class Mean(nn.Module):
    def forward(self, x):
        return x.mean(dim=2)

def model():
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))

def backbone():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv1d(2, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), Mean())
"""
HEAD = "nn.Linear(6, 3)"
GIVEN = f"{YAML}backbone: {{file: embed.tflite, layout: [batch, length, channels]}}\n"


def told_apart(count, seed):
    """Slow, fast and no waves, with labels."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 3, count)
    time = np.arange(24) / 10 * 2 * np.pi
    waves = np.sin(np.array([0.6, 2.0, 0.0])[labels, None] * time + chance.uniform(0, 1, (count, 1)))
    windows = np.stack([waves, -waves], axis=1) + chance.normal(0, 0.1, (count, 2, 24))
    return windows.astype(np.float32), labels


def embedding(rows=1):
    """Six features of windows that are (batch, length, channels), as TFLite."""
    weights = np.random.default_rng(5).normal(size=(6, 48))
    return tflite.linear(weights, (rows, 24, 2))


@pytest.fixture(scope="module", params=drawn(["module", "tflite"], 1))
def built(tmp_path_factory, request):
    """The folder, built: with a backbone in PyTorch, and with a file that takes other axes."""
    folder = tmp_path_factory.mktemp("backbone") / "small"
    windows = told_apart(60, 0)[0]
    if request.param == "module":
        project(folder, code=OWN, windows=windows)
    else:
        project(folder, HEAD, GIVEN, windows=windows)
        (folder / "embed.tflite").write_bytes(embedding())
    return folder, build(folder), read(folder / "small.marram")


def test_the_programs_take_windows_through_the_backbone_or_its_features_alone(built):
    _, _, bundle = built
    x, parameters = told_apart(70, 1)[0], bundle.parameters()
    whole = bundle.program("predict")(parameters=parameters, x=x)["scores"]
    features = bundle.features(x)
    assert features.shape[0] == 70
    np.testing.assert_array_equal(whole, bundle.head("predict")(parameters=parameters, x=features)["scores"])
    assert [one.shape for one in bundle.program("infer").inputs] == [("batch", 2, 24)]
    np.testing.assert_allclose(bundle.program("infer")(x=x)["scores"], whole, atol=0.02)


def test_the_features_are_those_of_the_module_or_the_file(built):
    folder, report, bundle = built
    x = told_apart(40, 2)[0]
    found = bundle.features(x)
    if bundle.manifest.programs["backbone"].runtime == "tflite":
        laid_out = np.ascontiguousarray(x.transpose(0, 2, 1))
        (expected,) = load(folder.joinpath("embed.tflite").read_bytes(), "tflite")(x=laid_out).values()
        np.testing.assert_array_equal(found, expected)
    else:
        names = {"torch": torch, "nn": nn}
        exec(OWN, names)
        with torch.no_grad():
            exact = names["backbone"]().eval()(torch.from_numpy(x)).numpy()
        assert np.abs(found - exact).mean() < 0.03 * np.abs(exact).mean()
        assert "int8" in report.backbone[1]
        kinds = {
            one.data_type for one in onnx.load_from_string(bundle.members["backbone.onnx"]).graph.initializer
        }
        assert onnx.TensorProto.INT8 in kinds


def test_only_the_heads_parameters_are_learnt_and_travel(built):
    folder, _, bundle = built
    names = [one.name for one in bundle.manifest.parameters]
    assert names == [name for name, _ in Project(folder).functions.module.named_parameters()]


def test_a_device_trains_the_head_in_a_child_and_makes_int8_of_it(built, tmp_path):
    """The whole way of the trainer: the store holds windows, the backbone makes features of them once."""
    folder, _, bundle = built
    x, labels = told_apart(300, 3)
    times = np.arange(300, dtype=np.float64) * 3
    windows = Windows(times, times + 2, x, labels.astype(np.int16), np.zeros(300, np.bool_))
    filled_store(tmp_path / "windows.db", windows, folder / "small.marram").close(0.0)
    result = run(
        job(
            tmp_path,
            bundle=str(folder / "small.marram"),
            epochs=40,
            learning_rate=0.1,
            ranges=True,
            int8=Int8Limits(0.9, 0.1, 1.0),
        )
    )
    assert result.after.loss < 0.6 * result.before.loss
    assert result.int8.used, result.int8.reason
    assert len(result.ranges[0]) == len(bundle.manifest.int8.activations)


def test_a_release_keeps_the_backbone_and_the_family(built):
    _, _, bundle = built
    parameters = bundle.parameters() + np.float32(0.1)
    windows = told_apart(60, 4)[0]
    predict = bundle.members["predict.onnx"]
    ranges = calibrate(predict, parameters, bundle.features(windows))
    released = parse(rebuild(bundle, parameters, ranges, windows, "1+r1", {}).content)
    assert released.manifest.family == bundle.manifest.family
    exact = released.program("predict")(parameters=parameters, x=windows)["scores"]
    np.testing.assert_allclose(released.program("infer")(x=windows)["scores"], exact, atol=0.02)


def test_another_backbone_is_another_family(built, tmp_path):
    _, _, bundle = built
    entry = bundle.manifest.programs["backbone"]
    other = msgspec.structs.replace(
        bundle.manifest, members={**bundle.manifest.members, entry.file: "0" * 64}
    )
    assert other.family != bundle.manifest.family


def changed(bundle, **changes):
    return encode(msgspec.structs.replace(bundle.manifest, **changes), bundle.members)


def test_a_bundle_whose_parts_do_not_fit_is_refused(built):
    _, _, bundle = built
    programs = bundle.manifest.programs
    taller = msgspec.structs.replace(programs["backbone"].outputs[0], shape=("batch", 99))
    entry = msgspec.structs.replace(programs["backbone"], outputs=(taller,))
    cases = [
        ({"backbone": None}, "or neither"),
        ({"task": "reconstruct"}, "only a classify model may"),
        ({"programs": {**programs, "backbone": entry}}, "the backbone gives features of shape"),
        ({"backbone": BackboneLayout(("batch", "length"))}, "expected each of"),
        ({"backbone": BackboneLayout(("batch", "channels", "height", "width"), 5)}, "a divisor of length"),
        ({"programs": {**programs, "infer_tflite": programs["infer"]}}, "no `infer_tflite`"),
        ({"programs": {**programs, "features": programs["infer"]}}, "no `features`"),
    ]
    for changes, why in cases:
        with pytest.raises(BundleError, match=why):
            parse(changed(bundle, **changes))


# ---- projects that cannot be built


@pytest.mark.parametrize(
    ("yaml", "content", "why"),
    [
        (GIVEN, None, r"embed.tflite: cannot be read: No such file"),
        (GIVEN, b"no model", r"embed.tflite: LiteRT cannot load"),
        (GIVEN.replace("length, channels", "channels, length"), embedding(), "takes .* windows are laid out"),
        (GIVEN, embedding(3), "takes 3 windows at once: export it for one"),
        (GIVEN.replace("[batch, length, channels]", "[batch, length]"), embedding(), "expected each of"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_backbone_is_refused(tmp_path, yaml, content, why):
    folder = project(tmp_path / "small", HEAD, yaml)
    if content is not None:
        (folder / "embed.tflite").write_bytes(content)
    with pytest.raises((ProjectError, InvalidConfigError), match=why):
        Project(folder)


def test_weights_in_a_file_beside_the_backbone_come_into_the_bundle(tmp_path):
    folder = project(tmp_path / "small", "nn.Linear(2, 3)", f"{YAML}backbone: {{file: embed.onnx}}\n")
    weights = np.array([[0.5], [-2.0]], np.float32)
    node = (
        helper.make_node("Mul", ["x", "w"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled"], ["scores"], axes=[2], keepdims=0),
    )
    model = onnx.load_from_string(
        models.model(list(node), [models.output("scores", ("batch", 2))], shape=("batch", 2, 24))
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, folder / "embed.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    backbone = Project(folder).backbone
    windows = told_apart(5, 0)[0]
    np.testing.assert_allclose(backbone.features(windows), (windows * weights).mean(axis=2), atol=1e-6)
    (folder / "w.bin").unlink()
    with pytest.raises(ProjectError, match=r"embed\.onnx: its weights are in a file beside it, which cannot"):
        Project(folder)


def test_one_backbone_is_enough(tmp_path):
    folder = project(tmp_path / "small", code=OWN, yaml=GIVEN)
    with pytest.raises(ProjectError, match="keep one"):
        Project(folder)


def test_a_backbone_that_fails_says_so_in_its_own_words(tmp_path):
    folder = project(tmp_path / "small", code=OWN.replace("Conv1d(2, 8", "Conv1d(3, 8"))
    with pytest.raises(
        ProjectError, match=r"backbone\(\): its forward fails on windows of shape \(2, 2, 24\)"
    ):
        Project(folder)


def test_other_tasks_have_none(tmp_path):
    yaml = GIVEN.replace("task: classify", "task: reconstruct").replace("labels: [x, y, z]\n", "")
    with pytest.raises(InvalidConfigError, match="only a classify model may have a backbone"):
        Project(project(tmp_path / "small", HEAD, yaml))


def test_a_form_for_litert_is_refused_beside_a_backbone(tmp_path):
    folder = project(tmp_path / "small", HEAD, GIVEN)
    (folder / "embed.tflite").write_bytes(embedding())
    with pytest.raises(CompressionError, match="the backbone itself may be TFLite"):
        build(folder, tflite=True)


def test_what_is_told_of_it_stands_in_the_report_and_the_card(built):
    _, report, bundle = built
    file = bundle.manifest.programs["backbone"].file
    assert file in str(report)
    assert bundle.manifest.card.metrics["backbone_bytes"] == len(bundle.members[file])

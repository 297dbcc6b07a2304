"""A budget: what is searched, what is taken, and what is said when nothing fits."""

import json
import re

import numpy as np
import pytest
from marram.bundle.file import read
from marram.errors import StorageError
from marram_cloud.cli import main
from marram_cloud.projects.errors import ProjectError
from marram_cloud.releases.calibration import CalibrationError
from marram_cloud.workshop.budget import Budget, BudgetError
from marram_cloud.workshop.build import build
from marram_cloud.workshop.compress import compress

from tests.support.sampled import ONLY_ZOO, every_fourth_day
from tests.unit.cloud.workshop.test_build import project

NETWORK = (
    "nn.Sequential(nn.Conv1d(2, 16, 5, padding=2), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv1d(16, 16, 3), "
    "nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3))"
)


def told_apart(count, seed):
    """Windows of three kinds (slow, fast, none), with labels."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 3, count)
    time = np.arange(24) / 10
    waves = np.sin(
        2 * np.pi * np.array([0.6, 2.0, 0.0])[labels, None] * time + chance.uniform(0, 6, (count, 1))
    )
    windows = np.stack([waves, -waves], axis=1) + chance.normal(0, 0.4, (count, 2, 24))
    return windows.astype(np.float32), labels.astype(np.int64)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A project with windows to learn and to judge by, built for a budget: (folder, report, what is said)."""
    folder = project(tmp_path_factory.mktemp("compress") / "waves", NETWORK, windows=told_apart(60, 0)[0])
    for name, count, seed in (("training", 240, 1), ("evaluation", 150, 2)):
        windows, labels = told_apart(count, seed)
        np.savez(folder / f"{name}.npz", windows=windows, labels=labels)
    built = compress(folder, None, Budget(bytes=9_000, loss=0.1), folder / "report", epochs=8, ratios=(0.5,))
    return folder, json.loads((folder / "report" / "report.json").read_text()), built


def test_pruned_and_unpruned_modules_are_tried_in_int8_and_compared_with_float(searched):
    tried = {(one["precision"], one["pruned"]) for one in searched[1]["candidates"]}
    assert {("fp32", 0.0), ("int8", 0.0), ("fp32", 0.5), ("int8", 0.5)} <= tried


def test_pruning_makes_the_model_really_smaller(searched):
    whole, pruned = (
        next(one for one in searched[1]["candidates"] if (one["precision"], one["pruned"]) == ("int8", ratio))
        for ratio in (0.0, 0.5)
    )
    assert pruned["parameters"] < 0.6 * whole["parameters"]
    assert pruned["macs"] < 0.6 * whole["macs"]
    assert pruned["bytes"] < whole["bytes"]


def test_what_is_taken_is_told_with_its_accuracy(searched):
    _, report, built = searched
    assert f"in float32, {report['chosen']['quality']['accuracy']:.3f} in int8; differs" in str(built)


def test_what_is_taken_keeps_the_budget_and_is_the_smallest_that_does(searched):
    chosen = searched[1]["chosen"]
    fitting = [
        one["bytes"]
        for one in searched[1]["candidates"]
        if one["precision"] != "fp32" and one["bytes"] <= 9_000 and one["loss"] <= 0.1
    ]
    assert chosen["bytes"] == min(fitting)


def test_the_bundle_holds_the_model_that_was_taken(searched):
    folder, report, built = searched
    bundle = read(built.path)
    assert len(bundle.members["infer.onnx"]) == report["chosen"]["bytes"]
    assert bundle.manifest.parameter_count == report["chosen"]["parameters"]
    with np.load(folder / "evaluation.npz") as judged:
        said = bundle.program("infer")(x=judged["windows"])["scores"].argmax(axis=1)
        right = float((said == judged["labels"]).mean())
    assert right == report["chosen"]["quality"]["accuracy"]
    assert right > 0.8  # it has learnt: a guess has a third


def test_the_model_card_says_what_was_measured_but_no_times(searched):
    metrics = read(searched[2].path).manifest.card.metrics
    assert metrics["accuracy_int8"] == searched[1]["chosen"]["quality"]["accuracy"]
    assert metrics["macs"] == searched[1]["chosen"]["macs"]
    assert not [name for name in metrics if "latency" in name or "us" in name.split("_")]


def test_a_pruned_bundle_can_be_trained_on(searched):
    bundle = read(searched[2].path)
    windows, labels = told_apart(64, 3)
    parameters = bundle.parameters()
    state = np.zeros(bundle.manifest.training.state, np.float32)
    fixed = {"learning_rate": np.array(0.05, np.float32), "anchor": parameters, "mu": np.array(0, np.float32)}
    losses = []
    for _ in range(20):
        made = bundle.program("train")(
            parameters=parameters, state=state, x=windows, y=labels, weight=np.ones(64, np.float32), **fixed
        )
        parameters, state = made["new_parameters"], made["new_state"]
        losses.append(float(made["loss"]))
    assert losses[-1] < losses[0]


def test_the_report_has_intervals_confusions_chains_and_a_step(searched):
    report = searched[1]
    for one in report["candidates"]:
        quality = one["quality"]
        assert quality["low"] <= quality["accuracy"] <= quality["high"]
        assert np.sum(quality["confusion"]) == quality["windows"] == 150
        assert 0 < one["cost"]["p50"] <= one["cost"]["p99"]
        assert one["cost"]["process"] > 0
    assert report["chains"]["float32"] == 4 * report["chosen"]["parameters"]
    assert report["train"]["p50"] > 0
    assert {one["name"] for one in report["layers"]} == {"0.weight", "3.weight", "7.weight"}
    assert report["front"]


def test_the_page_needs_nothing_from_outside(searched):
    page = (searched[0] / "report" / "report.html").read_text()
    assert page.count("<svg") == 7  # front, times, layers, two confusions, chains, files
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    assert "<script" not in page
    for one in searched[1]["candidates"]:
        assert f"{one['bytes']:,}" in page


def test_when_nothing_fits_the_nearest_are_named_and_nothing_is_written(tmp_path):
    folder = project(tmp_path / "small")
    with pytest.raises(BudgetError, match=r"no model keeps --max-bytes 100; [\s\S]*\n  int8: \d+ bytes"):
        compress(folder, None, Budget(bytes=100))
    assert not (folder / "small.marram").exists()


@every_fourth_day(2)
def test_a_report_that_cannot_be_written_leaves_no_bundle(tmp_path):
    folder = project(tmp_path / "small")
    with pytest.raises(BudgetError, match=r"model\.py: is no folder"):
        compress(folder, None, Budget(), folder / "model.py")
    (folder / "report" / "report.html").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"report\.html: cannot be written"):
        compress(folder, None, Budget(), folder / "report")
    assert not (folder / "small.marram").exists()


def test_without_a_pass_nothing_is_trained(tmp_path):
    with pytest.raises(BudgetError, match="--epochs 0: expected at least 1"):
        compress(project(tmp_path / "small"), None, Budget(bytes=100), epochs=0)


def test_a_limit_of_accuracy_needs_windows_to_judge_by(tmp_path):
    folder = project(tmp_path / "small", NETWORK)
    with pytest.raises(BudgetError, match=r"evaluation\.npz: is not there; --max-accuracy-loss needs it"):
        compress(folder, None, Budget(loss=0.01))


def test_windows_to_judge_by_need_labels(tmp_path):
    folder = project(tmp_path / "small", NETWORK)
    np.savez(folder / "evaluation.npz", windows=told_apart(10, 0)[0])
    with pytest.raises(ProjectError, match=r"evaluation\.npz: has no array 'labels'"):
        build(folder)


def test_a_label_that_the_project_does_not_name_is_refused(tmp_path):
    folder = project(tmp_path / "small", NETWORK)
    np.savez(folder / "evaluation.npz", windows=told_apart(2, 0)[0], labels=np.array([0, 3]))
    with pytest.raises(ProjectError, match=r"a label is 3, but project\.yaml names 3 labels"):
        build(folder)


def test_damaged_training_windows_are_refused(tmp_path):
    folder = project(tmp_path / "small", NETWORK)
    (folder / "training.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CalibrationError, match=r"training\.npz"):
        compress(folder, None, Budget(bytes=100_000))


@ONLY_ZOO
def test_a_report_alone_changes_nothing_in_the_bundle(tmp_path, capsys):
    folder = project(tmp_path / "small")
    build(folder, tmp_path / "plain.marram")
    command = ["workshop", "build", str(folder), "-o", str(tmp_path / "reported.marram")]
    assert main([*command, "--report", str(tmp_path / "report")]) == 0
    assert (tmp_path / "plain.marram").read_bytes() == (tmp_path / "reported.marram").read_bytes()
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [one["precision"] for one in report["candidates"]][:2] == ["fp32", "int8"]
    assert report["candidates"][0]["quality"] is None
    assert "no accuracy here" in (tmp_path / "report" / "report.html").read_text()

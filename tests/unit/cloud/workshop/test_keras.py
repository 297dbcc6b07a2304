"""A Keras model becomes a bundle that computes what Keras does, in int8, and runs on a device.

The conversions take ten seconds each: `make tflite` runs them. They need TensorFlow in its own environment.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from marram.bundle.file import read
from marram_cloud.cli import main
from marram_cloud.compression.errors import CompressionError
from marram_cloud.litert.choosing import BOUND
from marram_cloud.litert.quantise import in_float
from marram_cloud.projects.errors import ProjectError
from marram_cloud.releases.calibration import read_calibration
from marram_cloud.workshop.keras_bundle import TENSORFLOW, build_keras

from tests.support.fleet import SHOULDER, Device
from tests.support.windows import shoulder_windows

MODELS = Path(__file__).parents[3] / "support" / "keras_models.py"
WINDOWS = shoulder_windows(1).values[:200]
SLOW = pytest.mark.skipif(
    not os.environ.get("MARRAM_TFLITE") or TENSORFLOW.python is None,
    reason="make tflite converts with TensorFlow, which is 1.6 GB large",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder with the models and what they give for WINDOWS."""
    folder = tmp_path_factory.mktemp("keras")
    np.save(folder / "windows.npy", WINDOWS)
    subprocess.run([TENSORFLOW.python, MODELS, folder], check=True, capture_output=True)
    return folder


def project(folder, model=None, **changes):
    """A project around a model's file. changes: of project.yaml."""
    folder.mkdir()
    about = yaml.safe_load((SHOULDER / "project.yaml").read_text())
    del about["training"]
    (folder / "project.yaml").write_text(yaml.safe_dump({**about, **changes}))
    shutil.copy(SHOULDER / "calibration.npz", folder / "calibration.npz")
    if model is not None:
        shutil.copy(model, folder / "model.keras")
    return folder


def built(folder):
    """(the report, the bundle)."""
    report = build_keras(folder)
    return report, read(report.path)


def softmax(logits):
    parts = np.exp(logits - logits.max(axis=1, keepdims=True))
    return parts / parts.sum(axis=1, keepdims=True)


def near(found, wanted):
    """Within the bound that int8 has to keep; so not another function."""
    return np.abs(found - wanted).mean() / wanted.std() < BOUND


@SLOW
@pytest.mark.parametrize(
    ("name", "labels", "taken", "wanted"),
    [
        ("sequence", 7, "takes (length, channels), gives probabilities", lambda said: said),
        ("logits", 7, "takes (length, channels), gives logits, which a softmax is put behind", softmax),
        ("channels-first", 7, "takes (channels, length), gives probabilities", lambda said: said),
        ("picture", 7, "takes (height, width, channels), gives probabilities", lambda said: said),
        ("one-score", 2, "gives probabilities", lambda said: np.hstack([1 - said, said])),
    ],
)
def test_a_classifier_gives_what_keras_gives(tmp_path, models, name, labels, taken, wanted):
    names = [f"label-{number}" for number in range(labels)]
    report, bundle = built(project(tmp_path / "p", models / f"{name}.keras", labels=names))
    assert taken in report.understood
    assert near(bundle.program("infer")(x=WINDOWS)["scores"], wanted(np.load(models / f"{name}.npy")))
    assert set(bundle.members) == {"infer.tflite"} and not bundle.manifest.parameters


@SLOW
def test_an_autoencoder_scores_windows_and_their_channels(tmp_path, models):
    folder = project(tmp_path / "p", models / "autoencoder.keras", task="reconstruct", labels=[])
    _, bundle = built(folder)
    error = (np.load(models / "autoencoder.npy").transpose(0, 2, 1) - WINDOWS) ** 2
    found = bundle.program("infer")(x=WINDOWS)
    assert near(found["channel_scores"], error.mean(axis=2))
    assert near(found["score"], error.mean(axis=(1, 2)))
    calibration = read_calibration(folder / "calibration.npz", 6, 100).windows
    assert (bundle.program("infer")(x=calibration)["score"] <= bundle.manifest.threshold).all()


@SLOW
def test_a_full_integer_bundle_runs_in_a_real_agent(tmp_path, models):
    folder = project(tmp_path / "p", models / "sequence.keras", tflite="full-integer")
    windows = shoulder_windows(2)
    np.savez(folder / "evaluation.npz", windows=windows.values, labels=windows.labels)
    assert main(["workshop", "keras", str(folder), "-o", str(tmp_path / "made.marram")]) == 0
    bundle = read(tmp_path / "made.marram")
    assert in_float(bundle.members["infer.tflite"]) == ()
    metrics = bundle.manifest.card.metrics
    assert abs(metrics["accuracy_fp32"] - metrics["accuracy_int8"]) < 0.1
    changes = {"cloud": None, "learning": None, "model": {"bundle": str(tmp_path / "made.marram")}}
    device = Device(tmp_path / "device", "device", tmp_path, "", 1, changes)
    device.process.start()
    assert device.process.wait() == 0, device.process.tail()
    assert {line["model"] for line in device.predicted()} == {"shoulder 0"}
    assert len(device.predicted()) > 100


@SLOW
def test_a_model_that_does_not_fit_the_window_is_told_what_would(tmp_path, models):
    folder = project(tmp_path / "p", models / "twice-as-long.keras")
    with pytest.raises(CompressionError, match=r"its input has the shape \(None, 200, 6\); for 6 channels"):
        build_keras(folder)
    assert not list(folder.glob("*.marram"))


@SLOW
def test_a_damaged_model_is_told(tmp_path):
    folder = project(tmp_path / "p")
    (folder / "model.keras").write_bytes(b"nothing of the kind")
    with pytest.raises(CompressionError, match="TensorFlow cannot convert this model: "):
        build_keras(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"task": "forecast", "horizon": 5, "labels": []}, "may classify or reconstruct"),
        ({"training": {"epochs": 2}}, "does not learn on devices: remove loss, training"),
        ({}, r"model\.keras: is not there"),
    ],
)
def test_what_a_keras_project_cannot_be_is_told(tmp_path, changes, problem):
    with pytest.raises(ProjectError, match=problem):
        build_keras(project(tmp_path / "p", **changes))


def test_without_tensorflow_the_command_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MARRAM_KERAS_PYTHON", "/nowhere/python")
    (tmp_path / "model").write_bytes(b"")
    with pytest.raises(CompressionError, match=r"no TensorFlow is installed: `make \.venv-keras`"):
        build_keras(project(tmp_path / "p", tmp_path / "model"))

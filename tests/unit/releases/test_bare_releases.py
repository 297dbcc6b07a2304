"""A device whose model is a bare ONNX or TFLite file follows releases of such files, by the same rules."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from marram.bundle.description import Description
from marram.stream.blocks import Windows

from tests.support import models, tflite
from tests.support.fleet_repository import Repository
from tests.support.releases import released
from tests.support.updates import Rig, rig

ABOUT = msgspec.convert(
    {
        "name": "tiny", "task": "classify", "channels": [{"name": "x"}, {"name": "y"}],
        "rate": 10.0, "length": 4, "stride": 4, "labels": ["low", "high"],
    },
    Description,
)  # fmt: skip
FILES = {
    "onnx": (models.classifier(), models.classifier(2.0)),
    "tflite": (tflite.classifier((1, 2, 4)), tflite.classifier((1, 2, 4), int8=True)),
}


def windows() -> Windows:
    values = np.random.default_rng(3).normal(size=(60, 2, 4)).astype(np.float32)
    times, labels = np.arange(60.0), np.full(60, -1, np.int16)
    return Windows(times, times + 1, values, labels, np.zeros(60, np.bool_))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "fleet", models=("tiny",))


def device(tmp_path: Path, repository: Repository, kind: str) -> Rig:
    model = tmp_path / f"first.{kind}"
    model.write_bytes(FILES[kind][0])
    return rig(tmp_path / "device", repository, configured=model, description=ABOUT, windows=windows())  # type: ignore[return-value]


@pytest.mark.parametrize("kind", FILES)
def test_a_release_of_a_bare_file_is_tried_and_committed(
    repository: Repository, tmp_path: Path, kind: str
) -> None:
    repository.sign(FILES[kind][1], "2", kind, "tiny")
    repository.promote("2", model="tiny")
    with device(tmp_path, repository, kind) as running:  # type: ignore[attr-defined]
        running.until("committed", lambda: running.running == f"tiny/2.{kind}")
        running.until("it runs", lambda: running.inference.model.name == "tiny 2")
        assert running.inference.failed == 0
    again = running.again()
    again.stop()
    assert again.inference.model.name == "tiny 2"


def test_a_file_of_the_other_runtime_runs_too(repository: Repository, tmp_path: Path) -> None:
    repository.sign(FILES["tflite"][1], "2", "tflite", "tiny")
    repository.promote("2", model="tiny")
    with device(tmp_path, repository, "onnx") as running:  # type: ignore[attr-defined]
        running.until("committed", lambda: running.running == "tiny/2.tflite")


@pytest.mark.parametrize("kind", FILES)
def test_bytes_that_are_no_model_are_rolled_back(repository: Repository, tmp_path: Path, kind: str) -> None:
    repository.sign(b"no model at all" * 50, "2", kind, "tiny")
    repository.promote("2", model="tiny")
    with device(tmp_path, repository, kind) as running:  # type: ignore[attr-defined]
        assert f"tiny/2.{kind}" in running.until_stage("rolled_back")
        assert running.running == ""


def test_a_bare_file_is_no_release_for_a_bundle(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "fleet")
    repository.sign(FILES["onnx"][0], "2", "onnx")
    repository.promote("2")
    with rig(tmp_path / "device", repository) as running:
        assert "release a bundle" in running.until_stage("rolled_back")
        repository.release(released("3"), "3")
        running.check()
        running.until("committed", lambda: running.running == "shoulder/3.marram")

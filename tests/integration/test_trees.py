"""Fitted forests under a real ``marram run``, and a device that grows a forest of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import yaml
from marram.control import ControlError, ask
from marram.storage import replace_file
from marram_cloud.trees.build import build
from sklearn.ensemble import RandomForestClassifier

from examples.trees.make import make
from tests.support.cli import marram
from tests.support.processes import Process, eventually

SPARK = Path(__file__).parents[1] / "unit" / "cloud" / "trees" / "spark"
SAID = np.load(SPARK / "said.npz")
LABELS = ("first", "second", "third")
CHANNELS = [f"c{number}" for number in range(13)]


def project(folder: Path) -> Path:
    about = {
        "name": "wine", "channels": [{"name": name} for name in CHANNELS], "rate": 1, "length": 1,
        "stride": 1, "labels": list(LABELS),
    }  # fmt: skip
    replace_file(folder / "project.yaml", yaml.safe_dump(about).encode())
    return folder


def agent(folder: Path, bundle: Path, recording: Path, **more: Any) -> Path:
    sensor = {
        "type": "csv",
        "name": "table",
        "path": str(recording),
        "speed": "max",
        **more.pop("sensor", {}),
    }
    settings = {
        "device": {"name": "one", "state": str(folder / "state")},
        "sensors": [sensor],
        "model": {"bundle": str(bundle), **more.pop("model", {})},
        "outputs": [{"type": "jsonl", "path": str(folder / "out.jsonl")}],
        **more,
    }
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("kind", ["forest of Spark", "forest of scikit-learn"])
def test_a_fitted_forest_says_on_a_device_what_its_library_says(kind: str, tmp_path: Path) -> None:
    rows = SAID["rows"]
    if kind == "forest of Spark":
        model, wanted = SPARK / "forest", SAID["forest"]
    else:
        fitted = RandomForestClassifier(20, random_state=0).fit(rows, SAID["labels"])
        model, wanted = tmp_path / "model.skops", fitted.predict_proba(rows)
        skops.io.dump(fitted, model)
    text = [",".join(["time", *CHANNELS])]
    text += [",".join(map(repr, [float(second), *map(float, row)])) for second, row in enumerate(rows)]
    recording = tmp_path / "rows.csv"
    recording.write_text("\n".join(text) + "\n")
    bundle = build(project(tmp_path), model).path
    assert marram("run", "-c", agent(tmp_path, bundle, recording)).returncode == 0
    said = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(said) == len(rows)
    scores = [[one["scores"][label] for label in LABELS] for one in said]
    np.testing.assert_allclose(scores, wanted, atol=1e-4)


def test_a_device_alone_grows_a_forest_and_runs_it(tmp_path: Path) -> None:
    bundle = make(tmp_path / "project").path
    config = agent(
        tmp_path, bundle, tmp_path / "project" / "clinic-4.csv",
        sensor={"label": "diagnosis", "speed": 100, "repeat": True}, model={"parameters": "own"},
        learning={
            "schedule": {"after": 30, "every": "24h"}, "store": {"commit_every": "200ms"},
            "governor": {"max_cpu": 100, "on_battery": True, "min_battery": 0},
        },
        watch={"training_below": 150},
    )  # fmt: skip
    process = Process("marram.cli", ["run", "-c", str(config)], tmp_path / "agent.log")

    def status() -> dict[str, Any]:
        try:
            return ask(tmp_path / "state" / "marram.sock", {"command": "status"})
        except ControlError:
            return {}

    try:
        process.start()
        # Until it has trained it runs nothing and counts its windows as unscored.
        eventually("predictions", lambda: status().get("windows", {}).get("predicted", 0) > 20, 60)
        assert "(own)" in status()["model"]["name"], status()["model"]
    finally:
        process.kill()

"""The zoo: each built, trained as PyTorch would, trained on a device, released, and run there in int8.

``make zoo`` runs them all; without MARRAM_ZOO=all only a few are.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from marram.bundle.file import read
from marram_cloud.workshop.build import build
from marram_cloud.workshop.project import Project

from tests.support.fleet import Fleet
from tests.support.mosquitto import Mosquitto
from tests.support.sampled import ALL
from tests.zoo.eager import Eager
from tests.zoo.exported import Exported
from tests.zoo.found import note
from tests.zoo.projects import ZOO, Entry

SAMPLE = ("recurrent",)
CHOSEN = [one for one in ZOO if ALL or one.name in SAMPLE]
STEPS, BATCH, WINDOWS, AVERAGED = 200, 16, 96, 20


@pytest.fixture(scope="module", params=CHOSEN, ids=lambda one: one.name)
def entry(request) -> Entry:
    return request.param


@pytest.fixture(scope="module")
def built(entry, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """The project's folder, and by program how far it was from PyTorch: the build refuses more than 1e-5."""
    folder = entry.write(tmp_path_factory.mktemp("zoo") / entry.name)
    report = build(folder)
    note(
        entry.name, parameters=report.parameters, infer_bytes=report.programs["infer.onnx"],
        apart=max(report.differences.values()), curve=None, device=False,
    )  # fmt: skip
    return folder, report.differences


def bundle(folder: Path) -> Path:
    return folder / f"{folder.name}.marram"


def test_its_programs_agree_with_pytorch_to_1e_5(built):
    assert built[1].keys() == {"train.onnx", "evaluate.onnx", "predict.onnx"}
    assert max(built[1].values()) <= 1e-5


def test_its_loss_stays_on_pytorchs_for_200_steps(entry, built, tmp_path):
    """Against PyTorch's own modules, gradients and optimiser, in a loop as anybody would write it.

    Where there is dropout, whose chance is our own, it is left out of both. Some models are chaotic:
    PyTorch's own curves leave each other when windows change in their last bits. Then each of the steps is
    made from where PyTorch stands.
    """
    project, folder = Project(built[0]), built[0]
    if project.functions.chance:
        folder = entry.write(tmp_path / entry.name, dropout=False)
        build(folder)
        project = Project(folder)
    x, y = entry.windows(WINDOWS, seed=3)
    chance = np.random.default_rng(4)
    batches = [chance.choice(WINDOWS, BATCH, replace=False) for _ in range(STEPS)]

    def curve(steps, windows=x) -> np.ndarray:
        losses = [steps.step(windows[chosen], y[chosen]) for chosen in batches]
        return np.convolve(losses, np.ones(AVERAGED) / AVERAGED, "valid")

    ours, theirs = curve(Exported(read(bundle(folder)))), curve(Eager(project))
    assert theirs[-1] < 0.9 * theirs[0]
    apart, bound = np.abs(ours - theirs).max(), 0.1 * theirs[0]
    note(entry.name, curve=float(apart / theirs[0]), along=None)
    if apart < bound:
        return
    shaken = x * (1 + np.float32(2e-7) * chance.choice([-1, 1], x.shape)).astype(np.float32)
    assert np.abs(curve(Eager(project), shaken) - theirs).max() > 0.02 * theirs[0]
    exported, eager = Exported(read(bundle(folder))), Eager(project)
    losses, moves = [], []
    for chosen in batches:
        before = exported.parameters = eager.parameters.copy()
        losses.append(abs(exported.step(x[chosen], y[chosen]) - eager.step(x[chosen], y[chosen])))
        off, moved = exported.parameters - eager.parameters, eager.parameters - before
        moves.append(np.linalg.norm(off) / np.linalg.norm(moved))
    note(entry.name, along=float(max(losses) / theirs[0]))
    assert max(losses) < 1e-4 * theirs[0]
    assert np.median(moves) < 0.01
    assert max(moves) < 0.1


def recording(entry: Entry, path: Path) -> Path:
    """Windows one after the other, as a sensor would give them."""
    windows, labels = entry.windows(WINDOWS, seed=5)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = [f"c{number}" for number in range(entry.shape[0])]
        writer.writerow(["t", *names, "label"])
        rows = windows.transpose(0, 2, 1).reshape(-1, entry.shape[0])
        for number, row in enumerate(rows):
            label = f"class-{labels[number // entry.shape[1]]}" if entry.classes else ""
            writer.writerow([number / 50, *(f"{value:.5g}" for value in row), label])
    return path


def test_a_device_trains_it_and_runs_its_int8_release(entry, built, tmp_path):
    sensor = {
        "type": "csv", "name": "recording", "time": "t",
        "path": str(recording(entry, tmp_path / "recording.csv")),
        "speed": 10 * entry.shape[1] / 50, "repeat": True, **({"label": "label"} if entry.classes else {}),
    }  # fmt: skip
    changes = {
        "sensors": [sensor],
        "model": {"bundle": str(bundle(built[0]))},
        "releases": {"spread": "0s", "trial": {"windows": 10, "confirm": 10, "agreement": 0}},
    }
    rounds = {"minimum_devices": 1, "limit": 1}
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Fleet(tmp_path, broker.url, 1, rounds, changes, bundle=bundle(built[0])) as fleet,
    ):
        device = fleet.devices[0]
        device.start()
        device.until("windows to train on", lambda status: status["store"]["windows"] >= 30, 90)
        fleet.aggregator.start()
        fleet.closed(1, 120)
        (counted,) = fleet.aggregator.query("SELECT counted FROM rounds")[0]
        assert counted == 1
        version = fleet.release()
        device.until("the release", lambda status: status["model"]["release"] == version, 120)
        before = len(device.predicted())
        device.until("its predictions", lambda status: status["windows"]["predicted"] > before + 20, 60)
        assert device.status()["windows"]["failed"] == 0
        last = device.predicted()[-1]
        assert last["model"] == f"{entry.name} {version}"
        assert len(last.get("forecast", {}).get("c0", [])) == entry.horizon
        assert device.process.stop() == 0
    note(entry.name, device=True)

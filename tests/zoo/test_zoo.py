"""The zoo: each built, trained as PyTorch would, trained on a device, released, and run there in int8.

``make zoo`` runs them all; without MARRAM_ZOO=all only a few are.
"""

from __future__ import annotations

import copy
import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from marram.bundle.file import read
from marram_cloud.workshop.build import build
from marram_cloud.workshop.project import Project

from tests.support.fleet import Fleet
from tests.support.mosquitto import Mosquitto
from tests.zoo.projects import ZOO, Entry

SAMPLE = ("recurrent",)
CHOSEN = [one for one in ZOO if os.environ.get("MARRAM_ZOO") == "all" or one.name in SAMPLE]
STEPS, BATCH, WINDOWS, AVERAGED = 200, 16, 96, 20


@pytest.fixture(scope="module", params=CHOSEN, ids=lambda one: one.name)
def entry(request) -> Entry:
    return request.param


@pytest.fixture(scope="module")
def built(entry, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """The project's folder, and by program how far it was from PyTorch: the build refuses more than 1e-5."""
    folder = entry.write(tmp_path_factory.mktemp("zoo") / entry.name)
    return folder, build(folder).differences


def bundle(folder: Path) -> Path:
    return folder / f"{folder.name}.marram"


def test_its_programs_agree_with_pytorch_to_1e_5(built):
    assert built[1].keys() == {"train.onnx", "evaluate.onnx", "predict.onnx"}
    assert max(built[1].values()) <= 1e-5


def test_its_loss_stays_on_pytorchs_for_200_steps(entry, built, tmp_path):
    """Against PyTorch's own modules, gradients and optimiser, in a loop as anybody would write it.

    Where there is dropout, whose chance is our own, it is left out of both.
    """
    project, folder = Project(built[0]), built[0]
    if project.functions.chance:
        folder = entry.write(tmp_path / entry.name, dropout=False)
        build(folder)
        project = Project(folder)
    module = copy.deepcopy(project.functions.module)
    x, y = entry.windows(WINDOWS, seed=3)
    chance = np.random.default_rng(4)
    batches = [chance.choice(WINDOWS, BATCH, replace=False) for _ in range(STEPS)]
    ours = exported(read(bundle(folder)), x, y, batches)
    theirs = by_hand(entry, project, module, x, y, batches)
    first = theirs[:AVERAGED].mean()
    smooth = np.ones(AVERAGED) / AVERAGED
    apart = np.abs(np.convolve(ours, smooth, "valid") - np.convolve(theirs, smooth, "valid")).max()
    assert theirs[-AVERAGED:].mean() < 0.9 * first, (first, theirs[-AVERAGED:].mean())
    assert apart < 0.1 * first, (apart, first)


def exported(built_bundle, x, y, batches):
    """The losses of train.onnx."""
    program = built_bundle.program("train")
    training = built_bundle.manifest.training
    values, state, losses = built_bundle.parameters(), np.zeros(training.state, np.float32), []
    names = {tensor.name for tensor in program.inputs}
    for number, chosen in enumerate(batches):
        given = {
            "parameters": values, "state": state, "x": x[chosen], "y": y[chosen],
            "weight": np.ones(len(chosen), np.float32), "learning_rate": np.float32(training.learning_rate),
            "anchor": values, "mu": np.float32(0), "seed": np.int64(number),
        }  # fmt: skip
        out = program(**{name: np.asarray(value) for name, value in given.items() if name in names})
        values, state = out["new_parameters"], out["new_state"]
        losses.append(float(out["loss"]))
    return np.array(losses)


def by_hand(entry, project, module, x, y, batches):
    """The losses of PyTorch."""
    about, functions = project.about, project.functions
    module.train()
    for name, value in module.named_parameters():
        value.requires_grad_(name in functions.trainable)
    moved = [value for value in module.parameters() if value.requires_grad]
    chosen = about.training.optimiser
    rate = about.training.learning_rate
    if type(chosen).__name__ == "AdamW":
        optimiser = torch.optim.AdamW(moved, rate, chosen.betas, chosen.epsilon, chosen.weight_decay)
    else:
        optimiser = torch.optim.SGD(moved, rate, chosen.momentum, weight_decay=chosen.weight_decay)
    losses = []
    for places in batches:
        windows = torch.from_numpy(x[places])
        optimiser.zero_grad()
        loss = loss_of(entry, module, windows, torch.from_numpy(y[places]))
        loss.backward()
        if chosen.clip:
            torch.nn.utils.clip_grad_norm_(moved, chosen.clip)
        optimiser.step()
        losses.append(loss.item())
    return np.array(losses)


def loss_of(entry, module, x, y):
    functional = torch.nn.functional
    if entry.task == "classify":
        return functional.cross_entropy(module(x), y)
    if entry.task == "forecast":
        return functional.huber_loss(module(x[:, :, : -entry.horizon]), x[:, :, -entry.horizon :])
    target, made = module(x)
    return functional.mse_loss(made, target)


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

"""Forests on tables of which each device sees a part of its own: central, alone, by the fleet; and a network.

The network is a plain one of two layers, built by the workshop: trained on all rows in one place, and by the
fleet with FedAvg.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import yaml
from marram.bundle.file import Bundle, read
from marram.bundle.forest import Forest as Trees
from marram.bundle.forest import Layout
from marram.learning.store import TrainingSet
from marram.learning.training import fit
from marram.programs.program import Program, load
from marram.wire.messages import Steps
from marram.wire.parameters import Vector
from marram_cloud.engines.engine import DeltaReference
from marram_cloud.engines.local import LocalEngine
from marram_cloud.strategies.fedavg import FedAvg
from marram_cloud.strategies.forest import Forest
from marram_cloud.trees import features, programs

from benchmarks.forests import accuracy, alone, parted, room, rounds, windows
from benchmarks.report import Figure, Result, at_least
from examples.trees.tables import Table, cancer, digits

_SEEDS = range(4)
_ROUNDS, _NETWORK_ROUNDS = 6, 60
_WANTED, _FASTER = 0.91, 2.0
_RATE, _EPOCHS, _BATCH = 0.05, 3, 16
_MODEL = """\
import torch
from torch import nn


class Standard(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor({mean}))
        self.register_buffer("spread", torch.tensor({spread}))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) - self.mean) / self.spread


def model() -> nn.Module:
    return nn.Sequential(Standard(), nn.Linear({features}, 32), nn.ReLU(), nn.Linear(32, {labels}))
"""


@dataclass(frozen=True)
class _Setting:
    """A table by its name, and the room that its forest has."""

    name: str
    skew: str
    table: Callable[[int], Table]
    trees: int
    splits: int
    wanted: bool


_SETTINGS = (
    _Setting("cancer", "8 devices, by a feature", cancer, 64, 15, True),
    _Setting("digits", "10 devices, by label (Dirichlet 0.5)", digits, 200, 63, False),
)


def measure() -> Result:
    figures = [figure for setting in _SETTINGS for figure in _figures(setting)]
    return Result(
        "Forests, central and federated",
        "python -m benchmarks trees",
        f"Accuracy on the three tenths of a table that no device sees, means over {len(_SEEDS)} splits (the "
        "lowest in brackets). The central forest is scikit-learn's of 100 trees. The fleet's has had "
        f"{_ROUNDS} rounds of 4 trees a device, the network {_NETWORK_ROUNDS} of {_EPOCHS} epochs. A single "
        "device's forest is grown of its own rows. A fleet that shares out the labels as unevenly as that of "
        "the digits tells them apart less well: a tree never names a digit that its device has not seen.",
        [*figures, *_times()],
    )


def _figures(setting: _Setting) -> list[Figure]:
    found: dict[str, list[float]] = {}
    most = 0
    for seed in _SEEDS:
        table = setting.table(seed)
        bundle = room(table, setting.trees, setting.splits)
        *_, last = islice(rounds(bundle, table, Forest(), seed), _ROUNDS)
        most = max(most, last.told)
        network = _network(table)
        for name, value in (
            ("central forest", _central(table, seed)),
            ("forest of a single device, mean", float(np.mean(_singles(bundle, table, seed)))),
            ("federated forest", last.accuracy),
            ("central network", _trained(network, table, seed)),
            ("federated network", _federated(network, table, seed)),
        ):
            found.setdefault(name, []).append(value)
    figures = []
    for name, values in found.items():
        told = f"{setting.name} ({setting.skew}): {name}"
        if name == "federated forest" and setting.wanted:
            figures.append(at_least(told, float(np.mean(values)), _WANTED))
        else:
            figures.append(Figure(told, f"{np.mean(values):.3f} ({min(values):.3f})"))
    figures.append(Figure(f"{setting.name}: bytes up, a device and round", f"{most}, before the envelope"))
    return figures


def _rows(table: Table) -> tuple[np.ndarray, np.ndarray]:
    rows, labels = (np.concatenate([one[part] for one in table.devices]) for part in (0, 1))
    return rows, labels


def _central(table: Table, seed: int) -> float:
    from sklearn.ensemble import RandomForestClassifier

    return float(RandomForestClassifier(100, random_state=seed).fit(*_rows(table)).score(*table.strangers))


def _singles(bundle: Bundle, table: Table, seed: int) -> list[float]:
    return [alone(bundle, table, place, seed) for place in range(len(table.devices))]


# ---- the network


def _network(table: Table) -> Bundle:
    """Standardised by all rows: more than a fleet would know of itself, so no advantage for the forest."""
    from marram_cloud.workshop.build import build

    rows, _ = _rows(table)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = {
            "name": "network", "task": "classify", "channels": [{"name": one} for one in table.names],
            "rate": 1, "length": 1, "stride": 1, "labels": list(table.labels),
        }  # fmt: skip
        (folder / "project.yaml").write_text(yaml.safe_dump(about))
        numbers = {"features": rows.shape[1], "labels": len(table.labels)}
        spread = np.maximum(rows.std(axis=0), 1e-3)
        text = _MODEL.format(mean=rows.mean(axis=0).tolist(), spread=spread.tolist(), **numbers)
        (folder / "model.py").write_text(text)
        np.savez(folder / "calibration.npz", windows=rows[:, :, None])
        return read(build(folder).path)


def _trained(bundle: Bundle, table: Table, seed: int) -> float:
    data = windows(*_rows(table))
    asked = Steps(_NETWORK_ROUNDS, _BATCH, _RATE)
    parameters, _, _ = _fitted(bundle, asked, seed, bundle.parameters(), data)
    return accuracy(bundle, parameters, windows(*table.strangers))


def _federated(bundle: Bundle, table: Table, seed: int) -> float:
    parameters, exact, state = bundle.parameters(), bundle.parameters().astype(np.float64), None
    rule, asked = FedAvg(momentum=0.5), Steps(_EPOCHS, _BATCH, _RATE)
    devices = [seen for seen, _ in parted(table, seed)]
    for number in range(_NETWORK_ROUNDS):
        references = []
        for place, seen in enumerate(devices):
            new, _, _ = _fitted(bundle, asked, seed * 1000 + number, parameters, seen)
            references.append(DeltaReference(str(place), len(seen), lambda delta=new - parameters: delta))
        mean = LocalEngine().weighted_mean(references, len(parameters)).mean
        exact, state = rule.step(exact, mean, state)
        parameters = exact.astype(np.float32)
    return accuracy(bundle, parameters, windows(*table.strangers))


def _fitted(
    bundle: Bundle, asked: Steps, seed: int, start: Vector, data: TrainingSet
) -> tuple[Vector, int, float]:
    state = bundle.manifest.training.state
    return fit(bundle.program("train"), asked, seed, state, start, data, labelled=True)


# ---- time


def _times() -> list[Figure]:
    """A window in a forest that a fleet has grown: by the runtime's own operator, and by Gather."""
    table = digits()
    bundle = room(table, 64, 63)
    *_, last = islice(rounds(bundle, table, Forest(trees=8), 0), 1)
    layout: Layout = Layout.of(bundle.manifest)
    forest: Trees = layout.unpack(last.forest)
    content = features.program("values", len(table.names), 1)
    own = load(programs.infer(content, layout, last.forest), "onnx")
    gather = bundle.program("predict")
    x = table.strangers[0][:1, :, None]
    fast, slow = _micros(own, x=x), _micros(gather, x=x, parameters=last.forest)
    name = f"a window in {len(forest.trees)} trees"
    return [
        at_least(f"{name}: time of predict.onnx (Gather) / infer.onnx (trees)", slow / fast, _FASTER),
        Figure(f"{name}: infer.onnx, predict.onnx", f"{fast:.0f} us, {slow:.0f} us"),
    ]


def _micros(program: Program, **arrays: np.ndarray) -> float:
    program(**arrays)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 0.4:
        program(**arrays)
        count += 1
    return (time.perf_counter() - began) / count * 1e6

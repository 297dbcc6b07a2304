"""A fleet that grows a forest, in one process: the real grower, bytes, checks and rule, no network.

A device's windows are rows of a table; a fifth of them it holds out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from marram.bundle.file import Bundle, read
from marram.bundle.forest import Layout
from marram.learning.forest.training import train
from marram.learning.store import TrainingSet
from marram.programs.program import ProgramOptions
from marram.wire.parameters import Vector
from marram.wire.trees import decode, encode
from marram_cloud.strategies.forest import Forest
from marram_cloud.trees.build import build

from examples.trees.tables import Table

_HELD_OUT = 0.2


@dataclass(frozen=True)
class RoundEnd:
    """After a round. accuracy: on the rows that no device sees. told: bytes of the largest contribution."""

    forest: Vector
    accuracy: float
    told: int


def windows(rows: np.ndarray, labels: np.ndarray) -> TrainingSet:
    """Rows (n, F) as windows of one sample."""
    return TrainingSet(rows[:, :, None], labels)


def parted(table: Table, seed: int) -> list[tuple[TrainingSet, TrainingSet]]:
    """Of each device: what it trains on, and what it holds out."""
    random = np.random.default_rng(seed)
    found = []
    for rows, labels in table.devices:
        order = random.permutation(len(rows))
        cut = max(1, round(_HELD_OUT * len(rows)))
        found.append(tuple(windows(rows[some], labels[some]) for some in (order[cut:], order[:cut])))
    return found


def room(table: Table, trees: int, splits: int) -> Bundle:
    """A bundle with a forest that has learnt nothing yet."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = {
            "name": "table", "channels": [{"name": one} for one in table.names], "rate": 1, "length": 1,
            "stride": 1, "labels": list(table.labels), "forest": {"trees": trees, "splits": splits},
        }  # fmt: skip
        (folder / "project.yaml").write_text(yaml.safe_dump(about))
        return read(build(folder).path)


def accuracy(bundle: Bundle, forest: Vector, data: TrainingSet) -> float:
    scores = bundle.program("predict")(parameters=forest, x=data.values)["scores"]
    return float((scores.argmax(axis=1) == data.labels).mean())


def rounds(bundle: Bundle, table: Table, rule: Forest, seed: int) -> Iterator[RoundEnd]:
    """Rounds without end."""
    layout, options = Layout.of(bundle.manifest), ProgramOptions()
    devices, strangers = parted(table, seed), windows(*table.strangers)
    forest, state = bundle.parameters(), None
    number = 0
    while True:
        told, most = {}, 0
        for place, (seen, held_out) in enumerate(devices):
            grown = train(bundle, forest, seen, held_out, rule.trees, seed * 1000 + number, options)
            payload = encode(grown.contribution)
            most = max(most, len(payload))
            told[f"device-{place}"] = decode(payload, layout.room, rule.trees, layout.count(forest))
        exact, state = rule.merge(layout, forest.astype(np.float64), told, state)
        forest = exact.astype(np.float32)
        number += 1
        yield RoundEnd(forest, accuracy(bundle, forest, strangers), most)


def alone(bundle: Bundle, table: Table, place: int, seed: int) -> float:
    """Accuracy, on the rows that no device sees, of the forest that one device grows of its own rows."""
    seen, held_out = parted(table, seed)[place]
    grown = train(bundle, bundle.parameters(), seen, held_out, 0, seed, ProgramOptions())
    return accuracy(bundle, grown.own, windows(*table.strangers))

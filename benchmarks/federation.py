"""Eight devices and an aggregator in one process: the real programs, chains, engine and rule, no network.

A stated number of bytes is that of the sealed messages, so the same as on the broker without MQTT's headers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from marram.learning.store import SampleStore, StoreSettings, TrainingSet, read_training_set
from marram.learning.training import fit, measure
from marram.wire.codec.chain import Chain
from marram.wire.codec.seed import device_seed
from marram.wire.messages import Steps
from marram.wire.parameters import Vector, advance
from marram_cloud.engines.engine import DeltaReference
from marram_cloud.engines.local import LocalEngine
from marram_cloud.strategies.fedavg import FedAvg

from examples.shoulder import people


@dataclass(frozen=True)
class Setting:
    """How a federation learns; the names are those of the aggregator's configuration."""

    name: str
    chain: str
    update_chain: str
    steps: Steps
    strategy: FedAvg


@dataclass(frozen=True)
class RoundEnd:
    """After a round. own: accuracy on the devices' held-out windows, strangers: on the people never seen."""

    number: int
    parameters: Vector
    own: float
    strangers: float


@dataclass(frozen=True)
class Person:
    """One device's windows as its sample store splits them: to train on, and held out."""

    seen: TrainingSet
    held_out: TrainingSet


@cache
def person(number: int) -> Person:
    manifest = people.bundle().manifest
    shape = (len(manifest.channels), manifest.length)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "windows.db"
        store = SampleStore(path, manifest.family, shape, StoreSettings(64 << 20, 1e9, 1e9, 0.2), seed=0)
        store.add(people.windows(number), 0.0)
        store.close(0.0)
        return Person(*read_training_set(path, shape, labelled=True))


def initial(seed: int) -> Vector:
    """The bundle's parameters for seed 0, else another draw of the same distributions."""
    start = people.bundle().parameters()
    if seed == 0:
        return start
    random = np.random.default_rng(seed)
    pieces, at = [], 0
    for tensor in people.bundle().manifest.parameters:
        size = int(np.prod([int(s) for s in tensor.shape]))
        part = start[at : at + size]
        at += size
        constant = np.all(part == part[0])
        bound = np.abs(part).max()
        pieces.append(part if constant else random.uniform(-bound, bound, size).astype(np.float32))
    return np.concatenate(pieces)


def run(setting: Setting, seed: int) -> Iterator[RoundEnd]:
    """Rounds without end."""
    bundle = people.bundle()
    state_size = bundle.manifest.training.state
    train, evaluate = bundle.program("train"), bundle.program("evaluate")
    parameters = initial(seed)
    exact, state = parameters.astype(np.float64), None
    chain = Chain.parse(setting.chain)
    residuals: dict[int, Vector | None] = dict.fromkeys(people.DEVICES)
    number = 0
    while True:
        references = []
        for device in people.DEVICES:
            data = person(device)
            trained, _, _ = fit(
                train, setting.steps, seed * 1000 + number, state_size, parameters, data.seen, True
            )
            noise = device_seed(seed * 1000 + number, str(device))
            encoded = chain.encode(trained - parameters, noise, residuals[device])
            residuals[device] = encoded.residual
            decoded = chain.decode(encoded.payload, len(parameters), noise)
            references.append(DeltaReference(str(device), len(data.seen), lambda decoded=decoded: decoded))
        mean = LocalEngine().weighted_mean(references, len(parameters))
        exact, state = setting.strategy.step(exact, mean.mean, state)
        update = Chain.parse(setting.update_chain)
        payload = update.encode((exact - parameters).astype(np.float32), number).payload
        parameters = advance(parameters, "update", setting.update_chain, payload, number)
        number += 1
        own = [measure(evaluate, parameters, person(d).held_out, True) for d in people.DEVICES]
        count = sum(one.count for one in own)
        seen = sum((one.accuracy or 0.0) * one.count for one in own) / count
        stranger = measure(evaluate, parameters, people.strangers(), True)
        yield RoundEnd(number, parameters, seen, stranger.accuracy or 0.0)

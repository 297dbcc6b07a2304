"""How good the fleet's model is for people that no device has ever seen. Looked at only after the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from marram.bundle.file import Bundle
from marram.inference.prediction import Prediction
from marram.learning.training import measure
from marram.wire.parameters import Vector
from numpy.typing import NDArray

from examples.shoulder import people
from examples.shoulder.demo.process import DemoError
from examples.shoulder.demo.site import Site, device_name

_PAUSE = 10.0  # seconds between two exercises of a recording


def accuracy(bundle: Bundle, parameters: Vector) -> float:
    """Of fp32 parameters (P,) on the held-out people's windows, 0 to 1."""
    measured = measure(bundle.program("evaluate"), parameters, people.strangers(), labelled=True)
    assert measured.accuracy is not None
    return measured.accuracy


@dataclass(frozen=True)
class Int8:
    """What real devices said of the held-out people. confusion: (classes, classes), rows are the truth."""

    accuracy: dict[int, float]
    overall: float
    confusion: NDArray[np.int64]


def int8_on_devices(site: Site, bundle: Path) -> Int8:
    """Run ``marram run`` with the released bundle over each held-out person's recording."""
    labels = people.bundle().manifest.labels
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    by_person = {}
    for person in people.STRANGERS:
        process = site.stranger(person, bundle)
        process.start()
        process.wait()
        said = _predictions(site.state(device_name(person)) / "predictions.jsonl")
        windows = people.windows(person)
        own = np.zeros_like(confusion)
        for start, truth in zip(windows.start.tolist(), windows.labels.tolist(), strict=True):
            own[truth, labels.index(said[round(start, 3)])] += 1
        by_person[person] = float(np.trace(own) / own.sum())
        confusion += own
    return Int8(by_person, float(np.trace(confusion) / confusion.sum()), confusion)


def lost_in_swap(site: Site, names: list[str], release: str, stride: float) -> dict[str, int]:
    """Windows that are missing between two that were predicted, by device, in the predictions on disk.

    Within one exercise windows begin every ``stride`` seconds; between two there are pauses of 10 s and more.
    Looked at from the moment of the last start on, which is before the swap to ``release``.
    """
    lost = {}
    for name in names:
        lines = (site.state(name) / "predictions.jsonl").read_bytes().splitlines()
        entries = [json.loads(line) for line in lines]
        if release not in entries[-1]["model"]:
            raise DemoError(f"{name} does not run release {release}; its last prediction: {entries[-1]}")
        starts = np.array([entry["start"] for entry in entries])
        restarts = np.flatnonzero(np.diff(starts) < 0)
        begin = int(restarts[-1]) + 1 if restarts.size else 0
        steps = np.diff(starts[begin:]) / stride
        inside = steps[(steps > 1.5) & (steps < _PAUSE / stride)]
        lost[name] = int(np.rint(inside - 1).sum())
    return lost


def _predictions(path: Path) -> dict[float, str]:
    """Label by start, rounded to ms."""
    lines = path.read_bytes().splitlines()
    said = [msgspec.json.decode(line, type=Prediction) for line in lines]
    return {round(one.start, 3): one.label for one in said}

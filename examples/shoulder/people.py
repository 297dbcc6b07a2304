"""The people of the recordings: their windows with labels, cut by the agent's own sensor and stream."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import numpy as np
from marram.bundle.file import Bundle, read
from marram.learning.store import TrainingSet
from marram.sensors.csv import CsvConfig
from marram.sensors.csv import open as open_csv
from marram.sensors.sensor import SensorContext
from marram.stream.blocks import Windows
from marram.stream.config import StreamConfig
from marram.stream.stream import Stream

FOLDER = Path(__file__).parent
BUNDLE = FOLDER / "shoulder.marram"
DEVICES = range(1, 9)
STRANGERS = (9, 10)
"""Held out: no device ever sees these two."""


@cache
def bundle() -> Bundle:
    return read(BUNDLE)


def recording(person: int) -> Path:
    return FOLDER / "recordings" / f"person-{person:02}.csv.gz"


@cache
def windows(person: int) -> Windows:
    """All windows of one person, in the recording's own time."""
    manifest = bundle().manifest
    config = CsvConfig(name="watch", path=recording(person), label="exercise", speed="max", rebase=False)
    sensor = open_csv(config, SensorContext())
    stream = Stream(
        manifest.channel_names, manifest.rate, manifest.length, manifest.stride, manifest.labels,
        {"watch": sensor.channels}, StreamConfig(), replays=["watch"],
    )  # fmt: skip
    blocks = [stream.push("watch", samples) for samples in sensor.read(threading.Event())]
    return Windows.join([*blocks, stream.ended("watch"), stream.flush()])


@cache
def strangers() -> TrainingSet:
    """All windows of the held-out people."""
    parts = [windows(person) for person in STRANGERS]
    return TrainingSet(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.labels for part in parts]).astype(np.int64),
    )

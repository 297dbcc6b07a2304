"""Windows to learn from: made-up ones that tell which they are, and real ones of the shoulder recordings."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import numpy as np
from marram.bundle.file import Bundle, read
from marram.sensors.csv import CsvConfig
from marram.sensors.sensor import SENSORS, SensorContext
from marram.stream.blocks import Windows
from marram.stream.config import StreamConfig
from marram.stream.stream import Stream

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOULDER = EXAMPLES / "shoulder" / "shoulder.marram"
HOST = EXAMPLES / "host" / "host.marram"


def numbered(count: int, first: int = 0, label: int = -1, shape: tuple[int, int] = (2, 3)) -> Windows:
    """Windows number first, first + 1 ...: one second each, their values are their number."""
    numbers = np.arange(first, first + count)
    values = np.broadcast_to(numbers[:, None, None], (count, *shape)).astype(np.float32)
    times = numbers.astype(np.float64)
    return Windows(times, times + 1, values, np.full(count, label, np.int16), np.zeros(count, np.bool_))


@cache
def bundle(path: Path) -> Bundle:
    return read(path)


@cache
def shoulder_windows(person: int) -> Windows:
    """All labelled windows of one person's recording, made by the real sensor and the real stream."""
    manifest = bundle(SHOULDER).manifest
    path = EXAMPLES / "shoulder" / "recordings" / f"person-{person:02}.csv.gz"
    config = CsvConfig(name="watch", path=path, speed="max", label="exercise", rebase=False)
    sensor = SENSORS.open(config, SensorContext(device="test", max_gap=2.0))
    stream = Stream(
        manifest.channel_names, manifest.rate, manifest.length, manifest.stride, manifest.labels,
        {"watch": sensor.channels}, StreamConfig(), replays=["watch"],
    )  # fmt: skip
    blocks = [stream.push("watch", samples) for samples in sensor.read(threading.Event())]
    blocks.append(stream.ended("watch"))
    windows = Windows.join([block for block in blocks if len(block)])
    return Windows(
        windows.start, windows.end, windows.values, windows.labels.astype(np.int16), windows.repaired
    )


def host_windows(count: int = 200, seed: int = 1) -> Windows:
    """A machine that is idle, with some noise: (count, 9, 16), in the channels' units."""
    random = np.random.default_rng(seed)
    level = np.array([5, 40, 1, 0.3, 1e4, 2e4, 500, 500, 45], np.float32)[:, None]
    values = (level * random.uniform(0.8, 1.2, (count, 9, 16))).astype(np.float32)
    times = np.arange(count, dtype=np.float64) * 16
    return Windows(times, times + 15, values, np.full(count, -1, np.int16), np.zeros(count, np.bool_))

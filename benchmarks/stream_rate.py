"""Samples to windows: values a second through ``marram.stream``, one process, one thread.

python benchmarks/stream.py
"""

from __future__ import annotations

import time

import numpy as np
from marram.stream.blocks import Samples
from marram.stream.config import ChannelConfig, StreamConfig
from marram.stream.stream import Stream

RATE = 25_600.0
CHANNELS = ("ax", "ay", "az")
SECONDS = 40


def run(name: str, config: StreamConfig, block: int, jitter: float = 0.0, holes: float = 0.0) -> None:
    """Push ``SECONDS`` of three channels in blocks and print the rate."""
    random = np.random.default_rng(7)
    stream = Stream(CHANNELS, RATE, 2560, 1280, (), {"bearing": CHANNELS}, config)
    count = int(RATE * SECONDS)
    when = 1.76e9 + np.arange(count) / RATE + random.uniform(-jitter, jitter, count) / RATE
    values = random.standard_normal((3, count)).astype(np.float32)
    values[:, random.random(count) < holes] = np.nan
    blocks = [Samples(when[i : i + block], values[:, i : i + block]) for i in range(0, count, block)]
    windows = 0
    begin = time.perf_counter()
    for samples in blocks:
        windows += len(stream.push("bearing", samples))
    seconds = time.perf_counter() - begin
    print(
        f"{name:<34} {3 * count / seconds / 1e6:7.1f} M values/s   "
        f"{SECONDS / seconds:7.0f} x real time   {windows} windows"
    )


if __name__ == "__main__":
    limits = {name: ChannelConfig(min=-16, max=16, scale=2.0, stuck_after=1.0) for name in CHANNELS}
    run("on the grid, blocks of 2560", StreamConfig(), 2560)
    run("on the grid, blocks of 256", StreamConfig(), 256)
    run("with limits and the stuck rule", StreamConfig(channels=limits), 2560)
    run("30 % jitter: interpolated", StreamConfig(), 2560, jitter=0.3)
    run("1 % missing: repaired", StreamConfig(), 2560, holes=0.01)
